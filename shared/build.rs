//! The migrations are embedded when `schema.rs` is compiled; a new file among them is no change of that file.

fn main() {
    println!("cargo:rerun-if-changed=../migrations");
}
