//! The order rule.
