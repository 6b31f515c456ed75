//! Commands that ask a running process.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hyper::Method;
use serde_json::Value;

use super::table::{Align, Table};
use super::{finish, say, status};
use crate::admin::ask::{
    BackendId, BackendSpec, Difference, DifferenceKind, Reloading, Wanted, WantedState,
};
use crate::admin::client::{Client, ClientError, escape};
use crate::admin::sessions::{LIMIT_DEFAULT, Sessions};
use crate::admin::state::{PoolState, State};
use crate::admin::troubles::short;
use crate::config::load::load;
use crate::config::settings::{Admin, Settings};

/// Where the running process is asked.
#[derive(Debug, Clone, Args)]
pub struct Where {
    /// Its admin socket.
    #[arg(long, value_name = "PATH")]
    pub admin: Option<PathBuf>,
    /// Its configuration, which names the socket.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    place: Where,
    /// For programs: the answer of GET /api/v1/state.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct BackendArgs {
    /// POOL/BACKEND
    #[arg(value_name = "POOL/BACKEND")]
    backend: BackendId,
    /// Why, for those who look later.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Args)]
pub struct WeightArgs {
    /// POOL/BACKEND
    #[arg(value_name = "POOL/BACKEND")]
    backend: BackendId,
    /// 0 to 65535; 0 drains.
    #[arg(value_name = "N")]
    weight: u16,
    /// Why, for those who look later.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Subcommand)]
pub enum BackendCommand {
    /// Add a backend to a pool; reloads keep it.
    Add(AddArgs),
    /// Take a backend out of its pool; its sessions end as the pool's `drain` says.
    Remove(BackendArgs),
}

#[derive(Debug, Args)]
pub struct AddArgs {
    #[arg(value_name = "POOL")]
    pool: String,
    /// Its name and its address, such as c=10.0.0.3:80
    #[arg(value_name = "NAME=ADDR")]
    backend: String,
    #[arg(long, value_name = "N", default_value_t = 1)]
    weight: u16,
    #[arg(long, value_name = "N", default_value_t = 0)]
    priority: u16,
    /// 0 = no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    max_connections: u32,
    /// For the policy lowest_cost.
    #[arg(long, value_name = "X", default_value_t = 0.0)]
    cost: f64,
    /// Why, for those who look later.
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Args)]
pub struct SessionsArgs {
    /// Of this listener.
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// Of this pool.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// With this backend.
    #[arg(long, value_name = "POOL/BACKEND")]
    backend: Option<BackendId>,
    /// Of this client.
    #[arg(long, value_name = "IP")]
    client: Option<IpAddr>,
    /// That no byte moved in for so many seconds.
    #[arg(long, value_name = "SECONDS")]
    idle: Option<u64>,
    /// The one with this id.
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// No more than so many.
    #[arg(long, value_name = "N", default_value_t = LIMIT_DEFAULT)]
    limit: usize,
    /// End them, by reset; needs one of the options that say which.
    #[arg(long)]
    kill: bool,
    /// For programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
}

#[derive(Debug, Args)]
pub struct ReloadArgs {
    /// Only say what would change, and how many live connections that touches.
    #[arg(long)]
    dry_run: bool,
    /// For programs.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
}

impl Where {
    /// The socket: what is said, else what the configuration says, else the usual one.
    pub fn socket(&self) -> PathBuf {
        let of_config = || socket_of(self.config.as_deref()?);
        let said = self.admin.clone().or_else(of_config);
        said.unwrap_or_else(|| PathBuf::from(Admin::SOCKET_DEFAULT))
    }

    pub fn client(&self) -> Client {
        Client::new(&self.socket())
    }
}

/// Of a configuration that may be full of mistakes: whoever wants to mend something at runtime is
/// not kept from it by them.
fn socket_of(config: &Path) -> Option<PathBuf> {
    if let Ok(settings) = load(config, &|name| std::env::var(name).ok()) {
        return settings.admin.socket;
    }
    let text = std::fs::read_to_string(config).ok()?;
    let mut lines = text.lines().map(str::trim);
    lines.find(|line| line.starts_with("[admin]"))?;
    let table = lines.take_while(|line| !line.starts_with('['));
    let mut values =
        table.filter_map(|line| line.strip_prefix("socket")?.trim_start().strip_prefix('='));
    let value = values.next()?.trim_start().strip_prefix('"')?;
    Some(PathBuf::from(value.split('"').next()?))
}

pub fn status(args: &StatusArgs) -> ExitCode {
    let client = args.place.client();
    if args.json {
        return answer(run(client.text("/api/v1/state")), |text| text);
    }
    answer(run(client.get::<State>("/api/v1/state")), |state| {
        status::text(&state, super::wants_colour())
    })
}

/// What operators changed of these pools in the process that answers at the settings' socket, as
/// comments; empty where nobody answers.
pub fn changes_of_running(settings: &Settings) -> String {
    let Some(socket) = &settings.admin.socket else {
        return String::new();
    };
    let Ok(state) = run(Client::new(socket).get::<State>("/api/v1/state")) else {
        return String::new();
    };
    let is_ours = |pool: &&PoolState| settings.pools.iter().any(|one| one.name == pool.name);
    let mut lines = Vec::new();
    for pool in state.pools.iter().filter(is_ours) {
        let changed = pool.backends.iter().filter_map(|one| {
            let change = one.change.as_ref()?;
            Some((&one.name, status::signed(change)))
        });
        let removed = pool.removed.iter();
        let removed = removed.map(|one| {
            (
                &one.name,
                format!("removed {}", status::signed(&one.change)),
            )
        });
        for (backend, what) in changed.chain(removed) {
            lines.push(format!("# {}/{backend}: {what}\n", pool.name));
        }
    }
    match lines.is_empty() {
        true => String::new(),
        false => format!(
            "\n# Changed in the running process (pid {}), over what stands above:\n{}",
            state.pid,
            lines.concat()
        ),
    }
}

pub fn set_state(args: &BackendArgs, state: WantedState) -> ExitCode {
    let wanted = Wanted {
        state: Some(state),
        weight: None,
        reason: args.reason.clone(),
    };
    change(&args.place, &args.backend, &wanted)
}

pub fn set_weight(args: &WeightArgs) -> ExitCode {
    let wanted = Wanted {
        state: None,
        weight: Some(args.weight),
        reason: args.reason.clone(),
    };
    change(&args.place, &args.backend, &wanted)
}

fn change(place: &Where, id: &BackendId, wanted: &Wanted) -> ExitCode {
    let client = place.client();
    let path = path_of(id);
    let sent = client.send_json::<Value>(Method::POST, &path, Some(wanted));
    answer(run(sent), |backend| tell(id, &backend))
}

/// What has become of a backend, in a line.
fn tell(id: &BackendId, backend: &Value) -> String {
    let state = backend["state"].as_str().unwrap_or("waiting for its name");
    match (backend["active"].as_u64(), backend["weight"].as_u64()) {
        (Some(active), Some(weight)) => {
            format!("{id}: {state}, weight {weight}, {active} connections\n")
        }
        _ => format!("{id}: {state}\n"),
    }
}

pub fn backend(command: &BackendCommand) -> ExitCode {
    match command {
        BackendCommand::Add(args) => add(args),
        BackendCommand::Remove(args) => {
            let (id, client) = (&args.backend, args.place.client());
            let path = format!("{}?reason={}", path_of(id), escape(&args.reason));
            let sent = client.send_json::<()>(Method::DELETE, &path, None::<&()>);
            answer(run(sent), |()| format!("{id}: removed\n"))
        }
    }
}

fn add(args: &AddArgs) -> ExitCode {
    let Some((name, address)) = args.backend.split_once('=') else {
        let wrong = format!("{:?} is not NAME=ADDR, such as c=10.0.0.3:80", args.backend);
        return super::wrong_usage(&wrong);
    };
    let id = BackendId {
        pool: args.pool.clone(),
        backend: name.to_owned(),
    };
    let spec = BackendSpec {
        address: address.to_owned(),
        weight: args.weight,
        priority: args.priority,
        cost: args.cost,
        max_connections: args.max_connections,
        reason: args.reason.clone(),
    };
    let (client, path) = (args.place.client(), path_of(&id));
    let sent = client.send_json::<Value>(Method::PUT, &path, Some(&spec));
    answer(run(sent), |backend| tell(&id, &backend))
}

pub fn reload(args: &ReloadArgs) -> ExitCode {
    let client = args.place.client();
    let path = format!("/api/v1/reload?dry_run={}", args.dry_run);
    let sent = client.send_json::<Reloading>(Method::POST, &path, None::<&()>);
    answer(run(sent), |reloading| match args.json {
        true => json(&reloading),
        false => differences(&reloading),
    })
}

pub fn sessions(args: &SessionsArgs) -> ExitCode {
    let (pool, backend) = match &args.backend {
        Some(BackendId { pool, backend }) => (Some(pool), Some(backend)),
        None => (args.pool.as_ref(), None),
    };
    let said = [
        ("id", args.id.clone()),
        ("listener", args.listener.clone()),
        ("pool", pool.cloned()),
        ("backend", backend.cloned()),
        ("client", args.client.map(|client| client.to_string())),
        ("idle_s", args.idle.map(|seconds| seconds.to_string())),
        ("limit", Some(args.limit.to_string())),
    ];
    let said = said
        .iter()
        .filter_map(|(key, value)| Some(format!("{key}={}", escape(value.as_deref()?))));
    let path = format!("/api/v1/sessions?{}", said.collect::<Vec<_>>().join("&"));
    let client = args.place.client();
    let method = if args.kill {
        Method::DELETE
    } else {
        Method::GET
    };
    let sent = client.send_json::<Sessions>(method, &path, None::<&()>);
    answer(run(sent), |found| match args.json {
        true => json(&found),
        false => sessions_table(&found, args.kill),
    })
}

fn sessions_table(found: &Sessions, kill: bool) -> String {
    let left = |title| (title, Align::Left);
    let right = |title| (title, Align::Right);
    let columns = [
        left("ID"),
        left("CLIENT"),
        left("LISTENER"),
        left("BACKEND"),
        left("PHASE"),
        right("AGE"),
        right("IDLE"),
        right("IN"),
        right("OUT"),
        left("PATH"),
        left("NAME"),
    ];
    let mut table = Table::new(0, &columns);
    for one in &found.sessions {
        let place = match (one.pool.is_empty(), one.backend.is_empty()) {
            (true, _) => String::new(),
            (false, true) => one.pool.clone(),
            (false, false) => format!("{}/{}", one.pool, one.backend),
        };
        table.row(vec![
            (&one.id).into(),
            (&one.client).into(),
            (&one.listener).into(),
            place.into(),
            (&one.phase).into(),
            short(one.age).into(),
            short(one.idle).into(),
            status::bytes(one.bytes_to_backend).into(),
            status::bytes(one.bytes_to_client).into(),
            (&one.path).into(),
            (&one.sni).into(),
        ]);
    }
    let mut out = table.text(super::wants_colour());
    if found.truncated {
        out += "There are more; --limit N shows more of them.\n";
    }
    for worker in &found.silent_workers {
        out += &format!("! worker {worker} did not answer\n");
    }
    if kill {
        out += &format!("{} ended\n", found.killed);
    }
    out
}

/// What a reload did, or would do.
fn differences(reloading: &Reloading) -> String {
    let mut out = String::new();
    for difference in &reloading.changes {
        let Difference {
            kind,
            what,
            keys,
            connections,
            effect,
            needs_restart,
        } = difference;
        let sign = match kind {
            DifferenceKind::Added => '+',
            DifferenceKind::Removed => '-',
            DifferenceKind::Changed => '~',
        };
        out += &format!("{sign} {what}");
        match connections {
            0 => {}
            1 => out += &format!(": 1 live connection: {effect}"),
            many => out += &format!(": {many} live connections: {effect}"),
        }
        if *needs_restart {
            out += ": not before a restart or `lbd upgrade`";
        }
        out.push('\n');
        for change in keys {
            let value = |text: &str| if text.is_empty() { "-" } else { text }.to_owned();
            let (from, to) = (value(&change.from), value(&change.to));
            out += &format!("    {}: {from} -> {to}\n", change.key);
        }
    }
    for dropped in &reloading.dropped {
        out += &format!("! changed at runtime, and no longer: {dropped}\n");
    }
    for warning in &reloading.warnings {
        out += &format!("! {warning}\n");
    }
    let verb = if reloading.dry_run {
        "would change"
    } else {
        "changed"
    };
    match (reloading.changes.len(), reloading.dry_run) {
        (0, true) => out += "a reload would change nothing\n",
        (0, false) => out += "reloaded; nothing has changed\n",
        (1, _) => out += &format!("1 thing {verb}\n"),
        (many, _) => out += &format!("{many} things {verb}\n"),
    }
    out
}

pub(super) fn path_of(id: &BackendId) -> String {
    let (pool, backend) = (escape(&id.pool), escape(&id.backend));
    format!("/api/v1/pools/{pool}/backends/{backend}")
}

pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).expect("what is shown can be written") + "\n"
}

/// Waits for an answer.
pub(super) fn run<T>(asked: impl Future<Output = Result<T, ClientError>>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(asked).map_err(io::Error::other)
}

/// Says what was answered, or why it was not.
pub(super) fn answer<T>(answer: io::Result<T>, text: impl FnOnce(T) -> String) -> ExitCode {
    match answer {
        Ok(answer) => say(&text(answer)),
        Err(error) => finish(Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::ask::KeyChange;

    #[test]
    fn a_broken_configuration_still_says_where_the_socket_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("lb.toml");
        for (text, socket) in [
            (
                "[admin]\nsocket = \"/run/a.sock\" # here\n[[pool\n",
                Some("/run/a.sock"),
            ),
            (
                "x\n[admin]\nbind = \"\"\n  socket=\"/run/b\"\n",
                Some("/run/b"),
            ),
            ("[[pool\nsocket = \"/run/c\"\n", None),
            ("[admin]\n[log]\nsocket = \"/run/c\"\n[[", None),
        ] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(socket_of(&file), socket.map(PathBuf::from), "{text}");
        }
    }

    #[test]
    fn a_reload_is_told_by_what_it_touches() {
        let reloading = Reloading {
            dry_run: true,
            changes: vec![
                Difference {
                    kind: DifferenceKind::Changed,
                    what: "global".to_owned(),
                    keys: vec![KeyChange {
                        key: "workers".to_owned(),
                        from: "2".to_owned(),
                        to: "4".to_owned(),
                    }],
                    connections: 0,
                    effect: String::new(),
                    needs_restart: true,
                },
                Difference {
                    kind: DifferenceKind::Removed,
                    what: "backend \"web/a\"".to_owned(),
                    keys: Vec::new(),
                    connections: 12,
                    effect: "end within 300s".to_owned(),
                    needs_restart: false,
                },
            ],
            dropped: vec!["web/c: added by root (the pool is gone)".to_owned()],
            warnings: Vec::new(),
        };
        assert_eq!(
            differences(&reloading),
            "~ global: not before a restart or `lbd upgrade`\n    workers: 2 -> 4\n\
             - backend \"web/a\": 12 live connections: end within 300s\n\
             ! changed at runtime, and no longer: web/c: added by root (the pool is gone)\n\
             2 things would change\n"
        );
    }
}
