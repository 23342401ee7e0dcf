//! The environment of this moment: of this process, and where that is a service, of the user's service manager.
//!
//! A service that starts before anybody logs in knows no display, and one that runs for weeks knows an old one. So what
//! it inherited from its manager at the start is what the manager has now; what was set for it alone stays.

use std::{collections::BTreeMap, env, ffi::OsString, sync::Arc, time::Duration};

use tokio::{sync::OnceCell, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    system::user_manager::{UserManager, Variables},
    upstream::proxy::Environment,
};

const PATH: &str = "PATH";
/// How long a reload waits for the manager.
const LIMIT: Duration = Duration::from_secs(6);

/// How long a restart waits for the manager.
const SOON: Duration = Duration::from_secs(1);

/// Variables with their new values; `None`: removed.
pub type EnvironmentChanges = BTreeMap<String, Option<String>>;

/// The environment of this process and of its service manager. Clones share it.
#[derive(Clone, Debug)]
pub struct Surroundings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// As this process was started.
    own: Variables,
    manager: Option<UserManager>,
    /// What the manager had when it was first asked.
    at_start: OnceCell<Arc<Variables>>,
}

/// What counts at one moment.
#[derive(Clone, Debug, Default)]
pub struct Now {
    /// The environment.
    pub variables: Variables,
    /// The manager's part of it; `None` if there is no manager, or it does not answer.
    pub manager: Option<Arc<Variables>>,
}

impl Now {
    /// A variable, if it is set and not empty.
    pub fn var(&self, name: &str) -> Option<String> {
        let value = self.variables.get(name)?;
        (!value.is_empty()).then(|| value.clone())
    }
}

impl Surroundings {
    /// Of this process.
    pub fn detect() -> Self {
        Self::new(own(), UserManager::detect())
    }

    /// Of this process alone, whoever started it.
    pub fn of_process() -> Self {
        Self::new(own(), None)
    }

    /// Of nobody but this environment.
    #[cfg(test)]
    pub(crate) fn fixed(own: Variables) -> Self {
        Self::new(own, None)
    }

    fn new(own: Variables, manager: Option<UserManager>) -> Self {
        Self(Arc::new(Inner {
            own,
            manager,
            at_start: OnceCell::new(),
        }))
    }

    /// What this process was started with.
    pub fn at_start(&self) -> &Variables {
        &self.0.own
    }

    /// Whether the environment can change.
    pub fn can_change(&self) -> bool {
        self.0.manager.is_some()
    }

    /// The environment of this moment. Waits for the manager, within its limit.
    pub async fn now(&self) -> Now {
        let Inner {
            own,
            manager,
            at_start,
        } = &*self.0;
        let told = match manager {
            Some(manager) => manager.environment().await,
            None => None,
        };
        let Some(told) = told else {
            return Now {
                variables: own.clone(),
                manager: None,
            };
        };
        let first = at_start.get_or_init(async || told.clone()).await;
        Now {
            variables: merge(own, first, &told),
            manager: Some(told),
        }
    }

    /// Returns what the manager changed in the environment since this process was started: the successor of a restart
    /// begins with it, or would take what it inherits for its own. Nothing where the manager does not answer soon.
    pub async fn changes(&self) -> EnvironmentChanges {
        if !self.can_change() {
            return EnvironmentChanges::new();
        }
        match timeout(SOON, self.now()).await {
            Ok(now) => changes(self.at_start(), &now.variables),
            Err(_) => EnvironmentChanges::new(),
        }
    }

    /// Reads what the environment says of forward proxies now; all that wait for it get it.
    pub async fn look_at_proxies(&self, proxies: &Environment) {
        if self.can_change()
            && let Ok(now) = timeout(LIMIT, self.now()).await
            && now.manager.is_some()
        {
            proxies.set(&|name| now.var(name));
        }
    }

    /// Keeps `proxies` as the environment says: at the start, and whenever they are used and were not looked at lately.
    pub async fn keep_proxies(self, proxies: Arc<Environment>, stop: CancellationToken) {
        if !self.can_change() {
            return stop.cancelled().await;
        }
        proxies.expect_changes();
        let keeping = async {
            loop {
                self.look_at_proxies(&proxies).await;
                proxies.used().await;
            }
        };
        stop.run_until_cancelled(keeping).await;
    }
}

/// `own`, but what was inherited from the manager, which had `first` then, is as the manager has it `now`.
fn merge(own: &Variables, first: &Variables, now: &Variables) -> Variables {
    let is_inherited = |name: &str, value: &str| first.get(name).is_some_and(|it| it == value);
    let set_here = own.iter().filter(|it| !is_inherited(it.0, it.1));
    let mut res = now.clone();
    res.extend(set_here.map(|(name, value)| (name.clone(), value.clone())));
    let path = |it: &Variables| it.get(PATH).cloned().unwrap_or_default();
    if let Some(extended) = extended(&path(own), &path(first), &path(now)) {
        res.insert(PATH.to_owned(), extended);
    }
    res
}

/// What has to be done to `own` to make it `now`.
fn changes(own: &Variables, now: &Variables) -> EnvironmentChanges {
    let set = now.iter().filter(|it| own.get(it.0) != Some(it.1));
    let set = set.map(|(name, value)| (name.clone(), Some(value.clone())));
    let removed = own.keys().filter(|it| !now.contains_key(*it));
    set.chain(removed.map(|it| (it.clone(), None))).collect()
}

/// The manager's `PATH` of `now` with the folders that the unit put to the one of `first`; `None` if it has `own` that
/// is no such extension. The unit as it is shipped adds the folders where cargo puts programs.
fn extended(own: &str, first: &str, now: &str) -> Option<String> {
    let folders = |path: &str| -> Vec<String> {
        let parts = path.split(':').filter(|it| !it.is_empty());
        parts.map(str::to_owned).collect()
    };
    let (own, first, mut res) = (folders(own), folders(first), folders(now));
    if first.is_empty() || !first.iter().all(|it| own.contains(it)) {
        return None;
    }
    let added = own.into_iter().filter(|it| !first.contains(it));
    let added: Vec<_> = added.filter(|it| !res.contains(it)).collect();
    res.extend(added);
    Some(res.join(":"))
}

/// What is no text names no program and no proxy.
fn own() -> Variables {
    let text = |it: OsString| it.into_string().ok();
    let variables = env::vars_os();
    variables
        .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(list: &[(&str, &str)]) -> Variables {
        let owned = list.iter().map(|it| (it.0.to_owned(), it.1.to_owned()));
        owned.collect()
    }

    #[test]
    fn l12_what_was_inherited_follows_the_manager_and_what_was_set_here_stays() {
        let own = vars(&[
            ("PATH", "/usr/bin"),
            ("DISPLAY", ":0"),
            ("HTTPS_PROXY", "http://old:1"),
            ("BROWSER", "mine"),
            ("NOTIFY_SOCKET", "/x"),
        ]);
        let first = vars(&[
            ("PATH", "/usr/bin"),
            ("DISPLAY", ":0"),
            ("HTTPS_PROXY", "http://old:1"),
            ("BROWSER", "theirs"),
        ]);
        assert_eq!(merge(&own, &first, &first), own);
        let now = vars(&[
            ("PATH", "/opt/bin:/usr/bin"),
            ("WAYLAND_DISPLAY", "wayland-0"),
            ("HTTPS_PROXY", "http://new:2"),
            ("BROWSER", "other"),
        ]);
        let want = vars(&[
            // Changed, gone, changed, come.
            ("PATH", "/opt/bin:/usr/bin"),
            ("HTTPS_PROXY", "http://new:2"),
            ("WAYLAND_DISPLAY", "wayland-0"),
            // Of this unit alone.
            ("BROWSER", "mine"),
            ("NOTIFY_SOCKET", "/x"),
        ]);
        assert_eq!(merge(&own, &first, &now), want);
    }

    #[test]
    fn l12_a_path_that_the_unit_extends_follows_too() {
        for (own, first, now, want) in [
            // As the shipped unit does.
            (
                "/bin:/h/.cargo/bin",
                "/bin",
                "/opt:/bin",
                Some("/opt:/bin:/h/.cargo/bin"),
            ),
            ("/first:/bin", "/bin", "/opt", Some("/opt:/first")),
            ("/bin", "/bin", "/opt:/bin", Some("/opt:/bin")),
            ("/a:/bin:/b", "/bin", "/bin:/b:/c", Some("/bin:/b:/c:/a")),
            // A path of its own stays.
            ("/own", "/bin", "/opt", None),
            ("/own", "", "/opt", None),
        ] {
            let got = extended(own, first, now);
            assert_eq!(got.as_deref(), want, "{own} {first} {now}");
        }
        let path = |it: &str| vars(&[("PATH", it)]);
        let merged = merge(&path("/bin:/x"), &path("/bin"), &path("/opt:/bin"));
        assert_eq!(merged, path("/opt:/bin:/x"));
        assert_eq!(
            merge(&path("/own"), &path("/bin"), &path("/opt")),
            path("/own")
        );
    }

    #[test]
    fn l12_after_a_restart_what_the_manager_changed_before_still_follows_the_manager() {
        let own = vars(&[("DISPLAY", ":0"), ("LANG", "C"), ("BROWSER", "mine")]);
        let first = vars(&[("DISPLAY", ":0"), ("LANG", "C"), ("BROWSER", "theirs")]);
        let second = vars(&[("DISPLAY", ":1"), ("BROWSER", "theirs")]);
        let changes = changes(&own, &merge(&own, &first, &second));
        let expected = [("DISPLAY", Some(":1")), ("LANG", None)];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.map(str::to_owned)));
        assert_eq!(changes, EnvironmentChanges::from(expected));
        // The successor is started with these.
        let mut own = own;
        for (name, value) in changes {
            match value {
                Some(value) => own.insert(name, value),
                None => own.remove(&name),
            };
        }
        let third = vars(&[("DISPLAY", ":2"), ("LANG", "de"), ("BROWSER", "other")]);
        let want = vars(&[("DISPLAY", ":2"), ("LANG", "de"), ("BROWSER", "mine")]);
        assert_eq!(merge(&own, &second, &third), want);
    }

    #[tokio::test]
    async fn without_a_manager_the_environment_is_that_of_the_process() {
        let here = Surroundings::of_process();
        assert!(!here.can_change());
        let now = here.now().await;
        assert_eq!(now.variables, *here.at_start());
        assert!(now.manager.is_none());
        assert_eq!(now.var("PATH"), env::var("PATH").ok());
    }
}
