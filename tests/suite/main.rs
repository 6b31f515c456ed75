//! Every integration test: one binary, one harness, one link step.

mod closing;
mod config;
mod floors;
mod harness;
mod probes;
mod relay;
mod slow;
