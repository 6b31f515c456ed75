//! Every integration test: one binary, one harness, one link step.

<<<<<<< HEAD
mod config;
=======
mod balance_kit;
mod ejections;
mod policies;
mod pool_reloads;
mod simulation;
>>>>>>> balance
