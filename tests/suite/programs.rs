//! Real programs through the balancer, each where it is installed: Redis, PostgreSQL, nginx and
//! curl.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::harness::balancer::Balancer;
use crate::harness::machine::{self, program};
use crate::harness::process::{Helper, free_port};
use crate::harness::wait;

/// Runs a program to its end; its output when it succeeded.
fn run(command: &mut Command) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&stdout),
        String::from_utf8_lossy(&stderr),
    );
    assert!(status.success(), "{command:?}: {out}\n{err}");
    out.into_owned()
}

#[test]
fn redis_benchmark_runs_through_the_balancer() {
    let name = "redis_benchmark_runs_through_the_balancer";
    let (Some(server), Some(benchmark)) = (program("redis-server"), program("redis-benchmark"))
    else {
        return machine::skipped(name, "Redis is not installed");
    };
    let at = free_port();
    let folder = tempfile::tempdir().unwrap();
    let port = at.port().to_string();
    let _redis = Helper::start(
        Command::new(server)
            .args([
                "--bind",
                "127.0.0.1",
                "--port",
                &port,
                "--save",
                "",
                "--appendonly",
                "no",
            ])
            .arg("--dir")
            .arg(folder.path()),
    )
    .answering(at);
    let balancer = Balancer::over(&[at]);
    let port = balancer.address().port().to_string();
    let bench = |more: &[&str]| {
        let tests = [
            "-h",
            "127.0.0.1",
            "-p",
            &port,
            "-q",
            "-t",
            "ping,set,get,lrange_100",
        ];
        run(Command::new(&benchmark).args(tests).args(more))
    };
    for more in [
        ["-n", "2000", "-c", "20", "-P", "1", "-d", "64"],
        // Pipelined, and with values that make the path change.
        ["-n", "1000", "-c", "8", "-P", "16", "-d", "4096"],
        ["-n", "200", "-c", "4", "-P", "1", "-d", "400000"],
    ] {
        let out = bench(&more);
        assert!(out.contains("requests per second"), "{out}");
        assert!(!out.to_lowercase().contains("error"), "{out}");
    }
    wait::until("all are over", || balancer.active() == 0);
    assert!(balancer.backend("b0").1 >= 32);
}

#[test]
fn pgbench_runs_through_the_balancer() {
    let name = "pgbench_runs_through_the_balancer";
    let Some(bin) = postgres_folder() else {
        return machine::skipped(name, "PostgreSQL is not installed");
    };
    let runuser = program("runuser");
    if machine::is_root() && runuser.is_none() {
        return machine::skipped(
            name,
            "PostgreSQL does not run as root, and runuser(1) is missing",
        );
    }
    // PostgreSQL refuses to run as root; its own user comes with the package.
    let as_its_user = |tool: &str| {
        let tool = format!("{bin}/{tool}");
        match &runuser {
            Some(runuser) if machine::is_root() => {
                let mut command = Command::new(runuser);
                command.args(["-u", "postgres", "--", &tool]);
                command
            }
            _ => Command::new(tool),
        }
    };
    let folder = tempfile::tempdir().unwrap();
    // The other user has to get into it.
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let data = folder.path().join("data");
    let (at, sockets) = (free_port(), folder.path().to_str().unwrap());
    run(as_its_user("initdb")
        .args(["-U", "bench", "-A", "trust", "-N", "-D"])
        .arg(&data));
    let port = at.port().to_string();
    let options = ["-h", "127.0.0.1", "-p", &port, "-k", sockets, "-F"];
    let server = Postgres {
        stop: as_its_user("pg_ctl"),
        data: data.clone(),
    };
    let joined = options.join(" ");
    run(as_its_user("pg_ctl")
        .args(["start", "-w", "-o", &joined, "-D"])
        .arg(&data)
        .arg("-l")
        .arg(folder.path().join("data/server.log")));
    let balancer = Balancer::over(&[at]);
    let port = balancer.address().port().to_string();
    let to = ["-h", "127.0.0.1", "-p", &port, "-U", "bench"];
    let bench = |more: &[&str]| {
        run(Command::new(format!("{bin}/pgbench"))
            .args(to)
            .args(more)
            .arg("postgres"))
    };
    bench(&["-i", "-s", "1", "-q"]);
    // Connections that stay, and one for each transaction.
    for more in [&["-c", "4", "-t", "50"][..], &["-c", "2", "-t", "20", "-C"]] {
        let out = bench(more);
        assert!(out.contains("number of failed transactions: 0"), "{out}");
    }
    wait::until("all are over", || balancer.active() == 0);
    drop(server);
}

/// Stops the server when the test ends, however it ends.
struct Postgres {
    stop: Command,
    data: std::path::PathBuf,
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let _ = self
            .stop
            .args(["stop", "-m", "immediate", "-D"])
            .arg(&self.data)
            .output();
    }
}

fn postgres_folder() -> Option<String> {
    let versions = fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<String> = versions
        .filter_map(|entry| Some(entry.ok()?.path().join("bin").to_str()?.to_owned()))
        .filter(|bin| Path::new(bin).join("pgbench").exists())
        .collect();
    found.sort();
    found.pop()
}

#[test]
fn curl_gets_from_nginx_through_the_balancer() {
    let name = "curl_gets_from_nginx_through_the_balancer";
    let (Some(nginx), Some(curl)) = (program("nginx"), program("curl")) else {
        return machine::skipped(name, "nginx or curl is not installed");
    };
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    let body: Vec<u8> = (0..5_000_000u32)
        .map(|at| (at.wrapping_mul(at) >> 3) as u8)
        .collect();
    fs::write(root.join("large"), &body).unwrap();
    fs::write(root.join("small"), "small\n").unwrap();
    let at: SocketAddr = free_port();
    let dir = root.to_str().unwrap();
    let config = format!(
        "daemon off; master_process off; pid {dir}/pid; error_log {dir}/error.log;\n\
         events {{ worker_connections 256; }}\n\
         http {{ access_log off; client_body_temp_path {dir}/body; proxy_temp_path {dir}/p;\n\
         fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;\n\
         server {{ listen {at}; root {dir}; client_max_body_size 0;\n\
         location /upload {{ return 200 \"taken\\n\"; }} }} }}\n"
    );
    fs::write(root.join("nginx.conf"), config).unwrap();
    let mut command = Command::new(nginx);
    command.args([
        "-e",
        &format!("{dir}/error.log"),
        "-p",
        dir,
        "-c",
        "nginx.conf",
    ]);
    let _nginx = Helper::start(&mut command).answering(at);
    let balancer = Balancer::over(&[at]);
    let url = format!("http://{}", balancer.address());
    let get = |arguments: &[&str]| {
        let out = Command::new(&curl)
            .args([
                "--silent",
                "--show-error",
                "--fail",
                "--noproxy",
                "*",
                "--max-time",
                "30",
            ])
            .args(arguments)
            .output()
            .unwrap();
        assert!(out.status.success(), "{arguments:?}: {out:?}");
        out.stdout
    };
    let large = format!("{url}/large");
    let small = format!("{url}/small");
    assert!(get(&[&large]) == body, "the large file is not what it was");
    assert_eq!(get(&[&small]), b"small\n");
    // Several on one connection, then many at a time, each with a connection of its own.
    assert_eq!(get(&[&small, &small, &small]).len(), 18);
    let slow = get(&["--limit-rate", "3M", &large]);
    assert!(slow == body, "slowly, the large file is not what it was");
    let upload = format!("@{dir}/large");
    let taken = get(&["--data-binary", &upload, &format!("{url}/upload")]);
    assert_eq!(taken, b"taken\n");
    wait::until("all are over", || balancer.active() == 0);
    assert!(balancer.backend("b0").1 >= 5);
}
