//! One TLS connection without a socket: ciphertext in, plaintext out, and the other way.
