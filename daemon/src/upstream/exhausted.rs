//! A dial that failed for what this machine lacks, in words: it is no fault of the network (E1).

use std::{io, net::SocketAddr};

use pomd_core::{
    config::Authority,
    route::refusal::{Step, Unreachable},
};

use crate::system::{errors, limits};

/// What to tell if one of these failed for lack of a descriptor.
pub(super) fn told(target: &Authority, failed: &[(SocketAddr, io::Error)]) -> Option<Unreachable> {
    let lacking = |it: &(SocketAddr, io::Error)| errors::is_out_of_descriptors(&it.1);
    failed.iter().any(lacking).then(|| {
        let limit = limits::descriptors_reached();
        Unreachable::new(Step::Local, &format!("cannot dial {target}: {limit}"))
            .hint("close connections that are not needed, or start pomd with a higher limit")
    })
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn e1_a_dial_without_a_descriptor_is_no_failure_of_tcp() {
        let target = Authority::parse("db.corp.test:443").unwrap();
        let address = ([127, 0, 0, 1], 443).into();
        let failed = |errors: &[Errno]| -> Vec<(SocketAddr, io::Error)> {
            let errors = errors.iter();
            errors.map(|it| (address, io::Error::from(*it))).collect()
        };
        let both = failed(&[Errno::CONNREFUSED, Errno::MFILE]);
        let told_of = told(&target, &both).unwrap();
        assert_eq!(told_of.step, Step::Local);
        let words = told_of.to_string();
        assert!(
            words.starts_with("cannot dial db.corp.test:443: at the limit of "),
            "{words}"
        );
        assert_eq!(told(&target, &failed(&[Errno::CONNREFUSED])), None);
        assert_eq!(told(&target, &[]), None);
    }
}
