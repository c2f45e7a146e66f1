//! Starts that fail say why.

use std::os::unix::fs::PermissionsExt;

use sandbox::{Limit, StartError};

use crate::harness::run;

#[test]
fn a_start_that_fails_says_why_in_words() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let base = world.directory.join("base");
        let put = |name: &str, content: &[u8], mode| {
            std::fs::write(base.join(name), content).unwrap();
            std::fs::set_permissions(base.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let busybox = std::fs::read("/bin/busybox").unwrap();
        let mut foreign = busybox[..4096].to_vec();
        foreign[18] = 243;
        put("crlf", b"#!/bin/sh\r\necho hi\r\n", 0o755);
        put("noshebang", b"echo hi\n", 0o755);
        put("bash", b"#!/bin/bash\necho hi\n", 0o755);
        put("closed", b"#!/bin/sh\n", 0o644);
        put("foreign", &foreign, 0o755);
        put("dynamic", &dynamic_program(), 0o755);
        let say =
            async |name: &str, program: &str| pod.start(world.program(name, &[program])).await.unwrap_err();
        assert_eq!(say("crlf", "/crlf").await, StartError::CarriageReturn { script: "/crlf".into() });
        assert_eq!(
            say("plain", "/noshebang").await,
            StartError::UnknownFormat { program: "/noshebang".into() }
        );
        let interpreter = "/bin/bash".to_owned();
        assert_eq!(say("bash", "/bash").await, StartError::MissingInterpreter { interpreter });
        assert_eq!(say("closed", "/closed").await, StartError::NotExecutable { program: "/closed".into() });
        assert_eq!(
            say("foreign", "/foreign").await,
            StartError::OtherArchitecture { found: "riscv64".into() }
        );
        assert_eq!(
            say("dynamic", "/dynamic").await,
            StartError::MissingLoader { loader: "/lib/ld-none.so".into() }
        );
        assert_eq!(say("gone", "/gone").await, StartError::NotFound { program: "/gone".into() });
        assert_eq!(say("path", "nothing").await, StartError::NotFound { program: "nothing".into() });
        assert_eq!(say("folder", "/etc").await, StartError::IsDirectory { program: "/etc".into() });
        let again = pod.start(world.program("gone", &["/gone"])).await;
        assert_eq!(again.unwrap_err(), StartError::NotFound { program: "/gone".into() }, "and says it again");
        let mut spec = world.program("cwd", &["/bin/true"]);
        spec.working_dir = "/etc/passwd".into();
        let failed = pod.start(spec).await;
        assert!(matches!(failed, Err(StartError::WorkingDirectory { .. })), "{failed:?}");
        let mut spec = world.program("made", &["/bin/pwd"]);
        spec.working_dir = "/srv/deep".into();
        assert_eq!(world.outcome(&pod, spec).await.1, "/srv/deep\n");
        let message = pod.start(world.program("empty", &[])).await.unwrap_err().to_string();
        assert!(message.contains("no command"), "{message}");
        pod.remove().await.unwrap();
    });
}

/// The smallest ELF that asks for a loader.
fn dynamic_program() -> Vec<u8> {
    let mut program = std::fs::read("/bin/busybox").unwrap()[..64].to_vec();
    let loader = b"/lib/ld-none.so\0";
    let mut put = |at: usize, bytes: &[u8]| {
        program.resize(program.len().max(at + bytes.len()), 0);
        program[at..at + bytes.len()].copy_from_slice(bytes);
    };
    put(32, &64_u64.to_le_bytes());
    put(54, &56_u16.to_le_bytes());
    put(56, &1_u16.to_le_bytes());
    put(64, &3_u32.to_le_bytes());
    put(72, &120_u64.to_le_bytes());
    put(96, &(loader.len() as u64).to_le_bytes());
    put(120, loader);
    put(4096, &[0]);
    program
}

#[test]
fn what_the_host_forbids_is_clamped_and_told() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let mut spec = world.shell("one", "cat /proc/self/limits | grep 'open files'");
        let limit = |name: &str, value| Limit { name: name.into(), soft: value, hard: value };
        spec.limits = vec![limit("NOFILE", 64)];
        let (_, log) = world.outcome(&pod, spec).await;
        assert_eq!(log.split_whitespace().nth(3), Some("64"));
        let mut spec = world.shell("two", "true");
        spec.oom_score_adj = 500;
        spec.limits = vec![limit("NOFILE", 1 << 29)];
        let started = pod.start(spec).await.unwrap();
        // A host that allows it says nothing; one without CAP_SYS_RESOURCE says what was done.
        let allowed = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
        let clamped = started.state.notes.iter().any(|note| note.contains("clamped"));
        assert!(clamped || allowed.is_none_or(|most| most >= 1 << 29) || has_power(), "{:?}", started.state);
        pod.remove().await.unwrap();
    });
}

/// Whether this process may raise limits (CAP_SYS_RESOURCE, number 24).
fn has_power() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(line.trim(), 16).unwrap() & (1 << 24) != 0
}

/// What the user reads: each names the thing and says what to do.
#[test]
fn the_words_of_a_failed_start_say_what_to_do() {
    run(|world| async move {
        let pod = world.pod("a").await;
        let base = world.directory.join("base");
        let put = |name: &str, content: &[u8], mode| {
            std::fs::write(base.join(name), content).unwrap();
            std::fs::set_permissions(base.join(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let mut foreign = std::fs::read("/bin/busybox").unwrap()[..4096].to_vec();
        foreign[18] = 183;
        foreign[19] = 0;
        if cfg!(target_arch = "aarch64") {
            foreign[18] = 62;
        }
        put("crlf", b"#!/bin/sh\r\necho hi\r\n", 0o755);
        put("closed", b"#!/bin/sh\n", 0o644);
        put("foreign", &foreign, 0o755);
        put("dynamic", &dynamic_program(), 0o755);
        let other = if cfg!(target_arch = "aarch64") { "x86_64" } else { "aarch64" };
        let cases: [(&str, &str, &[&str]); 6] = [
            ("dynamic", "/dynamic", &["needs the loader /lib/ld-none.so", "build it statically"]),
            ("crlf", "/crlf", &["CRLF", "save it with LF"]),
            ("foreign", "/foreign", &[other, std::env::consts::ARCH, "image for this architecture"]),
            ("closed", "/closed", &["/closed is not executable", "chmod +x"]),
            ("gone", "gone", &["no such file in the image: gone", "PATH"]),
            ("folder", "/etc", &["/etc is a directory"]),
        ];
        for (name, program, words) in cases {
            let message = pod.start(world.program(name, &[program])).await.unwrap_err().to_string();
            assert!(words.iter().all(|word| message.contains(word)), "{name}: {message}");
            // A command in a running container fails with the same words.
            let runner = format!("run-{name}");
            pod.start(world.shell(&runner, "sleep 1000")).await.unwrap();
            let of_command = crate::harness::exec(&pod, &runner, &[program]).await.unwrap_err().to_string();
            assert_eq!(of_command, message);
        }
        pod.remove().await.unwrap();
    });
}
