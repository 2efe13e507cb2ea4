//! Plots of reports.

mod canvas;
mod writes;

pub(crate) use self::{
    canvas::{BOTTOM, Canvas, ETCD, HEIGHT, INK, LEFT, OURS, PALE, RIGHT, TOP, WIDTH, nice_above, thousands},
    writes::write,
};
