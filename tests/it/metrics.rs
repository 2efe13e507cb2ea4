//! `GET /metrics`: the values move as what is done; the page is well-formed, bounded, and as docs/METRICS.md says.

mod document;
mod outages;
mod pages;
mod reads;
mod watches;
mod writes;
