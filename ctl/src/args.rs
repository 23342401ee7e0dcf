//! What may be typed: the words of the command line, their help, and nothing of what they do.
//!
//! Long because it is one list: each command is a few lines of help and arguments.

mod options;

use std::{env, ffi::OsString, path::PathBuf};

pub(crate) use options::*;

use anstyle::{AnsiColor, Style};
use clap::{
    Args, Parser, Subcommand, ValueEnum,
    builder::Styles,
    error::{ContextKind, ContextValue, ErrorKind},
};
use control::paths::PathOverrides;

use crate::{
    commands::{connect, overview},
    error::{CliError, Exit, Report},
    guesses,
    screen::Screen,
};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "pomctl",
    version = control::VERSION,
    styles = STYLES,
    before_help = overview::text(),
    help_template = "{before-help}Commands\n{subcommands}\n\nOptions\n{options}\n"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct Globals {
    /// Answer as JSON on stdout, errors too
    #[arg(long, global = true, help_heading = HEADING)]
    pub(crate) json: bool,
    /// Colours: auto, always or never
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t, hide_possible_values = true, hide_short_help = true, help_heading = HEADING)]
    pub(crate) color: When,
    /// Never start pomd (also: POMD_NO_START=1)
    #[arg(long, global = true, hide_short_help = true, help_heading = HEADING)]
    no_start: bool,
    /// The configuration file (also: POMD_CONFIG)
    #[arg(long, global = true, value_name = "FILE", hide_short_help = true, help_heading = HEADING)]
    config: Option<PathBuf>,
    /// The control socket (also: POMD_SOCKET)
    #[arg(long, global = true, value_name = "PATH", hide_short_help = true, help_heading = HEADING)]
    socket: Option<PathBuf>,
    /// The folder for tokens, chosen ports and the log (also: POMD_STATE_DIR)
    #[arg(long, global = true, value_name = "DIR", hide_short_help = true, help_heading = HEADING)]
    state_dir: Option<PathBuf>,
}

const HEADING: &str = "Options for every command";

impl Globals {
    /// Returns the paths that options name.
    pub(crate) fn overrides(&self) -> PathOverrides {
        PathOverrides {
            config: self.config.clone(),
            state: self.state_dir.clone(),
            socket: self.socket.clone(),
        }
    }

    /// Tells whether a command that needs pomd may start it.
    pub(crate) fn may_start(&self) -> bool {
        let forbidden = env::var_os("POMD_NO_START").is_some_and(|it| !it.is_empty() && it != "0");
        !self.no_start && !forbidden
    }
}

impl Command {
    /// Tells whether it goes on for as long as somebody reads what it writes.
    pub(crate) fn goes_on(&self) -> bool {
        match self {
            Self::Status(args) => args.watch,
            Self::Logs(args) => args.follow,
            Self::Connect(_) | Self::Events | Self::Top => true,
            Self::Up(_)
            | Self::Down(_)
            | Self::Login(_)
            | Self::Logout(_)
            | Self::Add(_)
            | Self::Remove(_)
            | Self::Enable(_)
            | Self::Disable(_)
            | Self::Edit
            | Self::Token(_)
            | Self::KubeCredential(_)
            | Self::Wait(_)
            | Self::Doctor(_)
            | Self::Reload
            | Self::Restart(_)
            | Self::Stop
            | Self::Service(_)
            | Self::Ssh(_)
            | Self::SshConfig(_)
            | Self::Demo(_)
            | Self::Completions(_)
            | Self::Man(_) => false,
        }
    }
}

/// When to use colours.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    #[default]
    Auto,
    Always,
    Never,
}

/// The commands, in the order of the overview.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Show tunnels and logins: what is up, who I am, until when, what is wrong
    #[command(aliases = ["ls", "list", "ps"], after_help = "\
Examples
  pomctl status
  pomctl status ssh-prod --json | jq -r .tunnels[0].state
  pomctl status --watch

Exit codes: 0 all is well, 1 something is wrong, 3 pomd is not running, 4 only a login is missing.
With --json: 0 whenever pomd answered. A tunnel that is down is not wrong.")]
    Status(StatusArgs),
    /// Listen, log in if needed, and prove that the tunnel works
    #[command(after_help = "\
Examples
  pomctl up ssh-prod
  pomctl up --all

Lasts until pomd restarts. Starts pomd if it is not running.")]
    Up(UpArgs),
    /// Stop listening; open connections stay unless --now is given
    #[command(after_help = "\
Examples
  pomctl down ssh-prod
  pomctl down --all --now

Lasts until pomd restarts.")]
    Down(DownArgs),
    /// Log in to a cluster, by a browser
    #[command(after_help = "\
Examples
  pomctl login
  pomctl login corp
  pomctl login --no-browser https://corp.example.com

The browser: the cluster's key browser, else POMD_BROWSER, else BROWSER, else the system's. Starts pomd if it is not running.")]
    Login(LoginArgs),
    /// Forget a cluster's token; open connections stay
    #[command(after_help = "\
Examples
  pomctl logout
  pomctl logout corp")]
    Logout(LogoutArgs),
    /// Become ssh to a tunnel's host, or a host of a cluster's domain
    #[command(after_help = "\
Examples
  pomctl ssh ssh-prod
  pomctl ssh alice@web-1.corp.example.com -L 8080:localhost:80
  pomctl ssh ssh-prod -- uptime

A login that is needed is made first. What stands behind the host is ssh's own. Starts pomd if it is not running.")]
    Ssh(SshArgs),
    /// Write a new tunnel into the configuration file
    #[command(after_help = "\
Examples
  pomctl add ssh-prod ssh-prod.corp.example.com:22 --listen 2202
  pomctl add reports reports-db.internal:5432 --listen unix:reports.sock --start manual

Comments and order of the file stay. A pomd that runs reads it at once.")]
    Add(AddArgs),
    /// Remove a tunnel from the configuration file; open connections stay
    #[command(after_help = "\
Examples
  pomctl remove ssh-old")]
    Remove(NameArgs),
    /// Listen now, and whenever pomd runs
    #[command(after_help = "\
Examples
  pomctl enable ssh-prod

Writes start into the configuration file; comments stay.")]
    Enable(NamesArgs),
    /// Stop listening, and listen only after up
    #[command(after_help = "\
Examples
  pomctl disable ssh-prod

Writes start into the configuration file; comments stay. Open connections stay too.")]
    Disable(NamesArgs),
    /// Edit the configuration file; it is checked before it is saved
    #[command(after_help = "\
Examples
  pomctl edit
  POMD_EDITOR='code --wait' pomctl edit

The editor: POMD_EDITOR, else VISUAL, else EDITOR, else vi.")]
    Edit,
    /// Standard input and output to a route: for ssh's ProxyCommand
    #[command(after_help = "\
Examples
  ssh -o ProxyCommand=\"pomctl connect --ssh '%h:%p'\" web-1.corp.example.com
  pomctl connect db.corp.example.com:5432

The route is one of a tunnel, or its host is in the hosts of a [cluster]. Starts pomd if it is not running.")]
    Connect(ConnectArgs),
    /// Print or install what lets ssh find tunnels and domains by their names
    #[command(after_help = "\
Examples
  pomctl ssh-config
  pomctl ssh-config --install
  pomctl ssh-config --uninstall

Installed: a file beside the configuration, which pomd rewrites when tunnels change, and one Include in ~/.ssh/config.
Hosts that only Pomerium's own ssh server knows are not in it: nothing here tells of them.")]
    SshConfig(SshConfigArgs),
    /// Print a cluster's token, for curl and programs that send it themselves
    #[command(after_help = "\
Examples
  pomctl token corp --header | curl -H @- https://grafana.corp.example.com/
  pomctl token corp --json | jq -r .until

Only over a pipe: an argument list can be read by every user of the machine. Exit code 4: a login is needed, and nobody
is at a terminal. Starts pomd if it is not running.")]
    Token(TokenArgs),
    /// The same for kubectl: a client-go exec plugin (client.authentication.k8s.io/v1)
    #[command(after_help = "\
In the kubeconfig, for the server https://kube.corp.example.com:
  users:
  - name: kube.corp.example.com
    user:
      exec:
        apiVersion: client.authentication.k8s.io/v1
        command: pomctl
        args: [kube-credential, kube.corp.example.com]
        interactiveMode: IfAvailable

kubectl can only say Bearer, so status.token is Pomerium-TOKEN. Routes with a bearer_token_format refuse that form (403).
Logs in where kubectl says that a person is there; else exit code 4 at once, unless a login is open already.")]
    KubeCredential(KubeCredentialArgs),
    /// For scripts: end when tunnels work; never logs in, starts nothing
    #[command(after_help = "\
Examples
  pomctl wait ssh-prod && ansible-playbook site.yml
  pomctl wait db cache --timeout 2m

A tunnel works when its route opened. Waits for pomd too. Exit codes: 0 all of them work; when the time is over 3 pomd is
not running, 4 a login is needed, 1 anything else; 2 there is no such tunnel.")]
    Wait(WaitArgs),
    /// Find out why something does not work: each step of a connection, timed
    #[command(after_help = "\
Examples
  pomctl doctor
  pomctl doctor ssh-prod
  pomctl doctor web-1.corp.example.com:22
  pomctl doctor --json | jq '.tunnels[].checks[] | select(.outcome == \"bad\")'

Takes the steps of a new connection without touching the login, and works without pomd too. Names appear, secrets never.
Exit codes: 0 all is well, 1 a step failed, 2 the configuration is broken, 3 pomd is not running, 4 only a login is missing.")]
    Doctor(DoctorArgs),
    /// Show the log of pomd, or of one tunnel
    #[command(after_help = "\
Examples
  pomctl logs
  pomctl logs ssh-prod -f
  pomctl logs -n 20")]
    Logs(LogsArgs),
    /// The whole status as a line of JSON, at once and after each change
    #[command(after_help = "\
Examples
  pomctl events | jq -r '.tunnels[] | select(.state != \"up\") | .name'

Each line is what status --json answers. A reader that is slow gets the newest and misses some between. Goes on over a
restart of pomd. Exit code 3: pomd is not running, or ended.")]
    Events,
    /// Watch what flows: rates, connections and logins, live
    #[command(after_help = "\
Examples
  pomctl top
  pomctl top --json | jq -c '.tunnels[] | [.name, .received_per_second]'

Keys: q ends, arrows choose a tunnel, u and d are up and down, l shows its log. Where nobody watches: the rates of one second,
once; with --json a line each second.")]
    Top,
    /// Read the configuration file again (saving it does the same)
    #[command(after_help = "\
Examples
  pomctl reload
  pomctl reload --json | jq .changed

A broken file changes nothing: exit 2, and the report says where it is broken.")]
    Reload,
    /// Restart pomd as the installed version; its connections end
    #[command(after_help = "\
Examples
  pomctl restart
  pomctl restart --yes

Tunnels keep their ports, logins stay; what up and down said is forgotten. Asks on a terminal if connections are open.")]
    Restart(RestartArgs),
    /// Stop pomd; its connections end with it
    #[command(after_help = "\
Examples
  pomctl stop
  pomctl stop --json")]
    Stop,
    /// Have pomd run whenever you are logged in, as a service of your own
    #[command(after_help = "\
Examples
  pomctl service install
  pomctl service status
  pomctl service uninstall

Without root: a user unit of systemd, an agent of launchd, a task of Windows. A pomd that runs already gives way to the
service, which takes its ports and logins. uninstall takes away what install wrote, and nothing else.
Exit codes: 0 done, 1 failed; status: 3 if pomd is no service or does not run as one.")]
    Service(ServiceArgs),
    /// See it work without Pomerium: a simulated one, two services, a login
    #[command(after_help = "\
Examples
  pomctl demo
  pomctl demo --fast

Nothing of yours is touched: it has its own folder, socket and pomd.")]
    Demo(DemoArgs),
    /// Print what lets a shell complete commands and the names that are there
    #[command(after_help = "\
Examples
  pomctl completions bash >> ~/.bashrc
  pomctl completions zsh >> ~/.zshrc
  pomctl completions fish > ~/.config/fish/completions/pomctl.fish

Names are asked for when Tab is pressed: of a pomd that runs, else of the configuration file. Starts nothing.")]
    Completions(CompletionsArgs),
    /// Print a manual page, or write them all
    #[command(after_help = "\
Examples
  pomctl man | man -l -
  pomctl man pomd.toml | man -l -
  pomctl man --to ~/.local/share/man")]
    Man(ManArgs),
}

/// Reads the command line. What clap answers itself (help, version, usage errors) is told here.
pub(crate) fn read() -> Result<(Screen, Cli), Exit> {
    let typed: Vec<OsString> = env::args_os().collect();
    match Cli::try_parse_from(&typed) {
        Ok(cli) => Ok((Screen::new(cli.globals.json, cli.globals.color), cli)),
        Err(error) => Err(answer(&error, &typed)),
    }
}

fn answer(error: &clap::Error, typed: &[OsString]) -> Exit {
    let words = || typed.iter().take_while(|it| *it != "--");
    let said = |word: &str| words().any(|it| it == word);
    let pair = |a: &str, b: &str| {
        words()
            .zip(words().skip(1))
            .any(|it| it.0 == a && it.1 == b)
    };
    let color = if said("--color=never") || pair("--color", "never") {
        When::Never
    } else {
        When::Auto
    };
    let screen = Screen::new(said("--json"), color);
    let text = error.render().ansi().to_string();
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    ) {
        // `-h` is one screen, `--help` the whole.
        let text = match typed {
            [_, short] if short == "-h" => overview::text(),
            _ => text.trim_end(),
        };
        return match screen.answer(text) {
            Ok(()) => Exit::Done,
            Err(failure) => screen.report(&failure),
        };
    }
    if said("connect") && said("--ssh") && !said("--fdpass") {
        let text = error.render().to_string();
        let first = text.lines().next().unwrap_or_default();
        let message = first.strip_prefix("error: ").unwrap_or(first);
        let failure = CliError::usage("bad_request", message, None);
        return connect::report_to_ssh(&screen, &failure);
    }
    if let (ErrorKind::InvalidSubcommand, Some(ContextValue::String(word))) =
        (error.kind(), error.get(ContextKind::InvalidSubcommand))
        && let Some(meant) = guesses::meant(word)
    {
        let message = format!("there is no command {word}");
        return screen.report(&CliError::usage(
            "bad_request",
            message,
            Some(meant.to_owned()),
        ));
    }
    if !screen.json() {
        screen.say(text.trim_end());
        return Exit::Usage;
    }
    let plain = error.render().to_string();
    let message: Vec<&str> = plain
        .lines()
        .map(str::trim)
        .take_while(|it| !it.is_empty())
        .collect();
    let message = message.join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    let hint = error
        .get(ContextKind::SuggestedSubcommand)
        .or_else(|| error.get(ContextKind::SuggestedArg))
        .map(|it| format!("similar: {it}"));
    let report = Report::new(Exit::Usage, "bad_request", message).hint(hint);
    screen.report(&CliError::told(report))
}

const fn ansi(color: AnsiColor) -> Style {
    color.on_default()
}

const STYLES: Styles = Styles::plain()
    .header(Style::new().bold())
    .usage(Style::new().bold())
    .literal(ansi(AnsiColor::Cyan))
    .error(ansi(AnsiColor::Red).bold())
    .valid(ansi(AnsiColor::Green))
    .invalid(ansi(AnsiColor::Yellow));

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_overview_names_every_command_and_no_other() {
        let overview = overview::text();
        let shown: Vec<&str> = overview
            .lines()
            .skip(1)
            .filter(|it| !it.starts_with("Options"))
            .flat_map(|it| it[overview::LABEL..].split_whitespace())
            .collect();
        let mut built: Vec<String> = Cli::command()
            .get_subcommands()
            .map(|it| it.get_name().to_owned())
            .collect();
        built.push("help".to_owned());
        built.sort();
        let mut shown: Vec<String> = shown.into_iter().map(str::to_owned).collect();
        shown.sort();
        assert_eq!(shown, built);
    }

    #[test]
    fn no_command_is_a_guess_and_every_guess_names_a_command() {
        let command = Cli::command();
        let built: Vec<&str> = command
            .get_subcommands()
            .flat_map(|it| it.get_all_aliases().chain([it.get_name()]))
            .collect();
        for (words, meant) in guesses::GUESSES {
            assert!(words.iter().all(|it| !built.contains(it)), "{words:?}");
            for named in meant.split("pomctl ").skip(1) {
                let named = named.split([' ', ',']).next().unwrap();
                assert!(named == "--version" || built.contains(&named), "{meant}");
            }
        }
    }

    #[test]
    fn names_or_all_but_not_both() {
        let parse = |words: &[&str]| Cli::try_parse_from(words).is_ok();
        assert!(parse(&["pomctl", "up", "a", "b"]));
        assert!(parse(&["pomctl", "up", "--all"]));
        assert!(!parse(&["pomctl", "down", "--all", "a"]));
    }
}
