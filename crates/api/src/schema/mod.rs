//! Decoding, defaulting, validating and pruning by the table.
