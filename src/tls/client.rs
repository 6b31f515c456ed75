//! TLS towards backends: whom to believe, what to offer, and sessions to resume.
