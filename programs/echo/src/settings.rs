//! What the environment asks for.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::sys;

pub struct Settings {
    pub version: String,
    pub pod: String,
    pub port: u16,
    pub udp_port: Option<u16>,
    pub delay_ms: u64,
    pub unhealthy: bool,
    pub unready: bool,
    pub exit_after_ms: Option<u64>,
    pub exit_code: i32,
    pub eat_mb: usize,
    pub refuse_root: bool,
    pub drain_ms: u64,
    pub log_requests: bool,
}

impl Settings {
    pub fn read() -> Self {
        let environment: Vec<(&str, &str)> = sys::environment();
        let find = |name: &str| {
            environment.iter().find(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| *value)
        };
        let number = |name: &str| {
            find(name).map(|text| {
                text.parse::<u64>().unwrap_or_else(|_| {
                    sys::print(2, &alloc::format!("echo: ${name} is \"{text}\", which is no number\n"));
                    sys::exit(2)
                })
            })
        };
        let port = |name: &str| {
            number(name).map(|port| {
                u16::try_from(port).ok().filter(|port| *port > 0).unwrap_or_else(|| {
                    sys::print(2, &alloc::format!("echo: ${name} is {port}, which is no port\n"));
                    sys::exit(2)
                })
            })
        };
        let on = |name: &str| find(name).is_some_and(is_on);
        Self {
            version: find("ECHO_VERSION").unwrap_or("unknown").to_string(),
            pod: find("POD_NAME").map_or_else(sys::host_name, ToString::to_string),
            port: port("PORT").unwrap_or(8080),
            // Not `..._PORT`: a Service of the right name would set it.
            udp_port: port("ECHO_UDP"),
            delay_ms: number("ECHO_DELAY_MS").unwrap_or(0),
            unhealthy: on("ECHO_UNHEALTHY"),
            unready: on("ECHO_UNREADY"),
            exit_after_ms: number("ECHO_EXIT_AFTER_MS"),
            exit_code: number("ECHO_EXIT_CODE").map_or(1, |code| (code & 255) as i32),
            eat_mb: number("ECHO_EAT_MB").unwrap_or(0) as usize,
            refuse_root: on("ECHO_REFUSE_ROOT"),
            drain_ms: number("ECHO_DRAIN_MS").unwrap_or(200),
            log_requests: on("ECHO_LOG_REQUESTS"),
        }
    }
}

pub fn is_on(text: &str) -> bool {
    !matches!(text, "" | "0" | "false" | "no" | "off")
}
