//! What is allowed but ought to be known: said by `--check` and at every start.

use crate::config::settings::Settings;

/// One line each, for the operator.
pub fn warnings(settings: &Settings) -> Vec<String> {
    let insecure = settings
        .pools
        .iter()
        .filter(|pool| pool.health.probe.tls().is_some_and(|tls| tls.insecure))
        .map(|pool| {
            format!(
                "health.tls.insecure = true in [[pool]] {:?}: its probe accepts any certificate, \
                 so whoever answers there counts as the backend",
                pool.name
            )
        });
    insecure.collect()
}
