//! Every integration test: one binary, one harness, one link step.

mod config;
mod demo;
