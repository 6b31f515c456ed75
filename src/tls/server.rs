//! TLS of clients: certificates by name, versions, protocols, client certificates, tickets.
