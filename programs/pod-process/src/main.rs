mod protocol;
fn main() {}
