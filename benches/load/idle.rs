//! Many connections that were used once and then stay open.

use std::io;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::channel::{Channel, wait_for};
use crate::exchange::{Awaiting, Exchange, Scratch, Shape};
use crate::line::Line;
use crate::machine::Reading;
use crate::net::{Sources, connected, dial, raise_descriptor_limit};
use crate::tls::{Client, Security};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// How long they are held, from the line `holding N` on.
    #[arg(long, default_value_t = 5.0)]
    hold_seconds: f64,
    /// Source addresses 127.0.1.x to spread over; zero leaves the choice to the kernel.
    #[arg(long, default_value_t = 0)]
    source_addresses: usize,
    /// Settling time before CPU is measured.
    #[arg(long, default_value_t = 0.5)]
    warmup_seconds: f64,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    security: Security,
}

pub(crate) fn run(args: Args) -> io::Result<()> {
    raise_descriptor_limit()?;
    let mut scratch = Scratch::new();
    let mut sources = Sources::of_thread(0, args.source_addresses);
    let tls = args.security.client();
    let mut held: Vec<Channel> = Vec::with_capacity(args.connections);
    for _ in 0..args.connections {
        held.push(open_one(&args, tls.as_ref(), &mut sources, &mut scratch)?);
    }
    println!("holding {}", held.len());
    io::stdout().flush()?;
    thread::sleep(Duration::from_secs_f64(args.warmup_seconds));
    let before = Reading::now()?;
    thread::sleep(Duration::from_secs_f64(
        (args.hold_seconds - args.warmup_seconds).max(0.0),
    ));
    let after = Reading::now()?;
    Line::new("idle")
        .number("connections", held.len())
        .number(
            "seconds",
            format_args!("{:.3}", after.seconds_since(&before)),
        )
        .number(
            "cpu_seconds_machine",
            format_args!("{:.3}", after.busy_seconds_since(&before)),
        )
        .number("errors", still_open_errors(&held))
        .print();
    Ok(())
}

fn open_one(
    args: &Args,
    tls: Option<&Client>,
    sources: &mut Sources,
    scratch: &mut Scratch,
) -> io::Result<Channel> {
    let stream = match sources.take() {
        Some(source) => {
            let socket = dial(args.to, Some(source))?;
            wait_for(&socket, PollFlags::OUT)?;
            TcpStream::from(socket)
        }
        None => connected(args.to)?,
    };
    let mut channel = Channel::established(stream, tls)?;
    let mut exchange = Exchange::new(args.shape);
    while exchange.send(&mut channel, scratch)? == Awaiting::Room {
        wait_for(&channel, PollFlags::OUT)?;
    }
    loop {
        wait_for(&channel, PollFlags::IN)?;
        if exchange.receive(&mut channel, scratch)? == Awaiting::Nothing {
            return Ok(channel);
        }
    }
}

/// Nothing is due on a held connection, so one that is readable was closed or broken.
fn still_open_errors(held: &[Channel]) -> usize {
    let readable = |channel: &&Channel| {
        let mut set = [PollFd::new(*channel, PollFlags::IN)];
        !matches!(
            poll(
                &mut set,
                Some(&Timespec {
                    tv_sec: 0,
                    tv_nsec: 0
                })
            ),
            Ok(0)
        )
    };
    held.iter().filter(readable).count()
}
