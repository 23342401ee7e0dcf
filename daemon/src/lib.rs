//! Makes services behind Pomerium look like plain local ports.
