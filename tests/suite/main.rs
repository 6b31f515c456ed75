//! Every integration test: one binary, one harness, one link step.

mod backends;
mod balance_kit;
mod closing;
mod config;
mod demo;
mod discovery;
mod draining;
mod ejections;
mod floors;
mod harness;
mod health;
mod life;
mod listening;
mod policies;
mod pool_reloads;
mod probes;
mod programs;
mod queueing;
mod relay;
mod reloads;
mod resources;
mod retries;
mod simulation;
mod slow;
mod syscalls;
