//! Text of others (pomd, and through it Pomerium), made safe to show. Everything that is drawn passes here once.

use control::{
    text::clean,
    wire::{
        ApiError, Check, Cluster, Diagnosis, Holder, LogLine, OfferedRoute, OpenLogin, Reason,
        Status, Tunnel,
    },
};

/// Names, routes and addresses.
const NAME: usize = 300;
/// Sentences.
const SENTENCE: usize = 2000;
/// URLs: a cut one would be useless.
const URL: usize = 16 << 10;
/// Lines of a report that keeps its shape.
const LINES: usize = 1000;

/// Returns one sentence, made safe to show.
pub(crate) fn line(text: &str) -> String {
    clean(text, SENTENCE)
}

/// Returns a name, a route or an address, made safe to show.
pub(crate) fn name(text: &str) -> String {
    clean(text, NAME)
}

/// Returns an address to open, made safe to show.
pub(crate) fn url(text: &str) -> String {
    clean(text, URL)
}

/// Returns the lines of a text whose indentation means something, made safe to show.
pub(crate) fn lines(text: &str) -> Vec<String> {
    text.lines()
        .take(LINES)
        .map(|line| {
            let body = line.trim_start_matches(' ');
            let indent = (line.len() - body.len()).min(200);
            format!("{}{}", " ".repeat(indent), clean(body, SENTENCE))
                .trim_end()
                .to_owned()
        })
        .collect()
}

/// Returns a status with all of its text made safe to show.
pub(crate) fn status(mut status: Status) -> Status {
    let pomd = &mut status.pomd;
    tidy(&mut pomd.version, name);
    tidy(&mut pomd.config.path, line);
    if let Some(error) = &mut pomd.config.error {
        tidy(&mut error.message, line);
        error.report = lines(&error.report).join("\n");
    }
    tidy_all(&mut pomd.log, line);
    tidy_all(&mut pomd.warnings, line);
    status.tunnels = status.tunnels.into_iter().map(tunnel).collect();
    status.clusters = status.clusters.into_iter().map(cluster).collect();
    for leaving in &mut status.leaving {
        tidy(&mut leaving.name, name);
    }
    status
}

/// Returns a tunnel with all of its text made safe to show.
pub(crate) fn tunnel(mut tunnel: Tunnel) -> Tunnel {
    tidy(&mut tunnel.name, name);
    tidy(&mut tunnel.cluster, name);
    tidy(&mut tunnel.route, name);
    tidy_all(&mut tunnel.listen, name);
    tunnel.reason = tunnel.reason.map(reason);
    tunnel
}

/// Returns a cluster with all of its text made safe to show.
pub(crate) fn cluster(mut cluster: Cluster) -> Cluster {
    tidy(&mut cluster.name, name);
    tidy_all(&mut cluster.hosts, name);
    tidy_all(&mut cluster.user, name);
    if let Some(proxy) = &mut cluster.forward_proxy {
        tidy(&mut proxy.url, name);
        tidy_all(&mut proxy.variable, name);
    }
    cluster.reason = cluster.reason.map(reason);
    cluster
}

/// Returns a diagnosis with all of its text made safe to show.
pub(crate) fn diagnosis(mut diagnosis: Diagnosis) -> Diagnosis {
    tidy(&mut diagnosis.tunnel, name);
    tidy(&mut diagnosis.cluster, name);
    diagnosis.checks = diagnosis.checks.into_iter().map(check).collect();
    diagnosis
}

/// Returns a check with all of its text made safe to show.
pub(crate) fn check(mut check: Check) -> Check {
    tidy(&mut check.message, line);
    tidy_all(&mut check.hint, line);
    for (key, value) in &mut check.facts {
        tidy(key, name);
        tidy(value, line);
    }
    check
}

/// Returns an open login with all of its text made safe to show. The addresses must open nothing but a web page.
pub(crate) fn route(mut route: OfferedRoute) -> OfferedRoute {
    for text in [
        &mut route.name,
        &mut route.said,
        &mut route.from,
        &mut route.description,
    ] {
        *text = line(text);
    }
    route.target = route.target.as_deref().map(line);
    route.route = route.route.as_deref().map(line);
    route
}

pub(crate) fn login(mut login: OpenLogin) -> OpenLogin {
    tidy(&mut login.link, url);
    tidy_all(&mut login.sign_in_host, name);
    tidy_all(&mut login.sign_in_url, url);
    login
}

/// Returns an error with all of its text made safe to show, but for a report of several lines.
pub(crate) fn error(mut error: ApiError) -> ApiError {
    tidy(&mut error.message, line);
    tidy_all(&mut error.hint, line);
    tidy_all(&mut error.request_id, name);
    for (key, value) in &mut error.facts {
        tidy(key, name);
        tidy(value, line);
    }
    error
}

/// Returns a line of the log with all of its text made safe to show.
pub(crate) fn log(mut log: LogLine) -> LogLine {
    tidy(&mut log.level, name);
    tidy_all(&mut log.tunnel, name);
    tidy_all(&mut log.cluster, name);
    tidy(&mut log.message, line);
    tidy(&mut log.target, name);
    let fields = std::mem::take(&mut log.fields).into_iter();
    log.fields = fields
        .map(|(key, value)| (name(&key), line(&value)))
        .collect();
    log
}

/// Returns the program that holds an address, in words.
pub(crate) fn holder(holder: &Holder) -> String {
    let program = holder.program.as_deref().map(name);
    match (program, holder.pid, holder.uid) {
        (Some(program), Some(pid), _) => format!("{program} (pid {pid})"),
        (Some(program), None, _) => program,
        (None, Some(pid), _) => format!("pid {pid}"),
        (None, None, Some(uid)) => control::text::program_of(uid, holder.ours),
        (None, None, None) => "a program that can't be seen from here".to_owned(),
    }
}

fn reason(mut reason: Reason) -> Reason {
    tidy(&mut reason.message, line);
    tidy_all(&mut reason.hint, line);
    tidy_all(&mut reason.request_id, name);
    reason
}

fn tidy(text: &mut String, how: fn(&str) -> String) {
    *text = how(text);
}

fn tidy_all<'a>(texts: impl IntoIterator<Item = &'a mut String>, how: fn(&str) -> String) {
    for text in texts {
        tidy(text, how);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_keeps_its_shape_and_loses_its_teeth() {
        let text = "error: x\n  --> a.toml:1\n   |\n 1 | a\u{1b}[2J\u{202e}\n   | ^^^";
        let expected = [
            "error: x",
            "  --> a.toml:1",
            "   |",
            r" 1 | a\u{1b}[2J\u{202e}",
            "   | ^^^",
        ];
        assert_eq!(lines(text), expected);
    }

    #[test]
    fn a_holder_is_told_as_far_as_it_is_known() {
        let of = |program: Option<&str>, pid, uid| {
            holder(&Holder {
                pid,
                program: program.map(str::to_owned),
                uid,
                ours: false,
            })
        };
        assert_eq!(of(Some("node"), Some(4242), Some(1)), "node (pid 4242)");
        assert_eq!(of(None, None, Some(0)), "a program of another user (uid 0)");
        let ours = Holder {
            pid: None,
            program: None,
            uid: Some(7),
            ours: true,
        };
        assert!(holder(&ours).starts_with("a program of yours"));
        assert_eq!(
            of(None, None, None),
            "a program that can't be seen from here"
        );
    }
}
