//! Whole pods under the agent, on the real kernel: needs root and `/bin/busybox` (apt-get install busybox-static).

mod adoption;
mod changes;
mod cluster;
mod endings;
mod harness;
mod image_volumes;
mod leaves;
mod limits;
mod security;
