//! What buildah and skopeo make is what we show, in every format and compression; what we save they can read.

use image::credentials::{Credentials, Keyring};
use image::store::Origin;
use image::{Error, pull};

use crate::debian::{self, Buildah, Registry, Truth};
use crate::{name, puller, store, tree};

async fn assert_pulled(address: &str, repository: &str, truth: &Truth) {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let reference = name(&format!("{address}/{repository}"));
    let named = puller(&store)
        .pull(&reference, &[], &pull::silent())
        .await
        .unwrap_or_else(|error| panic!("{repository}: {}", error.in_full()));
    assert_eq!(named.origin, Origin::Pulled);
    let rootfs = store.rootfs(&named).await.unwrap();
    assert_eq!(
        (rootfs.config.entrypoint.as_slice(), rootfs.config.working_dir.as_str()),
        (&["/bin/tool".to_owned()][..], "/etc")
    );
    let mounted = tree::Mounted::new(&rootfs);
    tree::assert_same(&tree::describe(&mounted.path()), &tree::describe(&truth.tree));
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_buildah_and_skopeo_are_shown_as_they_show_them() {
    let registry = Registry::start(false).await;
    let buildah = Buildah::new();
    let truth = buildah.image();
    let address = &registry.address;
    for (format, compression) in [("oci", "gzip"), ("oci", "zstd"), ("v2s2", "gzip")] {
        let repository = format!("team/{format}-{compression}");
        let target = format!("docker://{address}/{repository}:latest");
        let options =
            ["push", "-q", "--tls-verify=false", "--format", format, "--compression-format", compression];
        buildah.run(&[&options[..], &[&truth.image, &target]].concat());
        assert_pulled(address, &repository, &truth).await;
    }
    // Skopeo takes the image over a layout, and writes docker's own format from it.
    let layout = format!("oci:{}:v1", buildah.path("layout").display());
    buildah.run(&["push", "-q", "--format", "oci", &truth.image, &layout]);
    for format in ["oci", "v2s2"] {
        let target = format!("docker://{address}/skopeo-{format}:latest");
        debian::run(
            "skopeo",
            &["copy", "-q", "--dest-tls-verify=false", "--format", format, &layout, &target],
        );
        assert_pulled(address, &format!("skopeo-{format}"), &truth).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_go_both_ways() {
    let buildah = Buildah::new();
    let truth = buildah.image();
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let shown = tree::describe(&truth.tree);
    for kind in ["oci-archive", "docker-archive"] {
        let path = buildah.path(kind);
        let target = format!("{kind}:{}:example.com/team/{kind}:v1", path.display());
        buildah.run(&["push", "-q", &truth.image, &target]);
        let named = store.import(std::fs::File::open(&path).unwrap(), None).await.unwrap();
        assert_eq!(named[0].name, name(&format!("example.com/team/{kind}:v1")));
        let mounted = tree::Mounted::new(&store.rootfs(&named[0]).await.unwrap());
        tree::assert_same(&tree::describe(&mounted.path()), &shown);
    }
    let layout = buildah.path("layout");
    buildah.run(&["push", "-q", &truth.image, &format!("oci:{}:v1", layout.display())]);
    let named = store.import_directory(&layout, Some(name("from-a-folder"))).await.unwrap();
    let saved = buildah.path("saved.tar");
    store.save(&[named[0].name.to_string()], std::fs::File::create(&saved).unwrap()).await.unwrap();
    for source in [format!("oci-archive:{}", saved.display()), format!("docker-archive:{}", saved.display())]
    {
        let inspected = debian::run("skopeo", &["inspect", "--config", &source]);
        assert!(inspected.contains("/bin/tool"), "{source}: {inspected}");
        let target = format!("dir:{}", buildah.path("copied").display());
        debian::run("skopeo", &["copy", "-q", &source, &target]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_for_and_taken() {
    let registry = Registry::start(true).await;
    let buildah = Buildah::new();
    let truth = buildah.image();
    let target = format!("docker://{}/private:v1", registry.address);
    buildah.run(&["push", "-q", "--tls-verify=false", "--creds", "tester:secret", &truth.image, &target]);
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    let reference = name(&format!("{}/private:v1", registry.address));
    let puller = puller(&store);
    let anonymous = puller.pull(&reference, &[], &pull::silent()).await.unwrap_err();
    assert!(
        matches!(&anonymous, Error::Unauthorized { hint, .. } if hint.contains("imagePullSecrets")),
        "{anonymous}"
    );
    let wrong = Credentials::Basic { username: "tester".into(), password: "wrong".into() };
    let refused = puller.pull(&reference, std::slice::from_ref(&wrong), &pull::silent()).await.unwrap_err();
    assert!(matches!(refused, Error::Unauthorized { .. }), "{refused}");
    // "tester:secret" in base64, as docker login keeps it.
    let file = format!(r#"{{"auths":{{"{}":{{"auth":"dGVzdGVyOnNlY3JldA=="}}}}}}"#, registry.address);
    let right = Keyring::parse(file.as_bytes()).unwrap().find(&reference);
    let credentials = [vec![wrong], right].concat();
    puller.pull(&reference, &credentials, &pull::silent()).await.unwrap();
    let absent = name(&format!("{}/private:absent", registry.address));
    let missing = puller.pull(&absent, &credentials, &pull::silent()).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound { .. } | Error::Unauthorized { .. }), "{missing}");
}
