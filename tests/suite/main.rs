//! Every integration test: one binary, one harness, one link step.

mod balance_kit;
mod closing;
mod config;
mod demo;
mod ejections;
mod floors;
mod harness;
mod policies;
mod pool_reloads;
mod probes;
mod relay;
mod resources;
mod simulation;
mod slow;
