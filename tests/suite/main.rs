//! Every integration test: one binary, one harness, one link step.

mod config;
mod floors;
mod harness;
mod probes;
mod relay;
