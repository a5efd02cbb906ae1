//! The trust store of the host's distribution.

use std::collections::BTreeMap;

use node_agent::engine::Request;
use node_agent::host::Host;
use serde_json::json;

use crate::support::{Machine, lines, make_trust_store, reasons, request};

const DEBIAN: &str = "/usr/sbin/update-ca-certificates";
const RED_HAT: &str = "/usr/bin/update-ca-trust";
const UNIT: &str = "nodebootstrap-trust-store.service";

/// A certificate as PEM.
fn certificate(name: &str) -> String {
    rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.pem().replace('\r', "")
}

/// A machine of a family, whose distribution trusts one certificate.
fn machine(program: &str, own: &str) -> Machine {
    let machine = Machine::new();
    let (folders, file) = match program {
        DEBIAN => (["/usr/share/ca-certificates", "/etc/ssl/certs"], "/usr/share/ca-certificates/own.crt"),
        _ => (
            ["/usr/share/pki/ca-trust-source", "/etc/pki/ca-trust/extracted/pem"],
            "/usr/share/pki/ca-trust-source/own.p11-kit",
        ),
    };
    for folder in folders.into_iter().chain(["/usr/bin"]) {
        machine.directory(folder);
    }
    machine.write(file, own);
    machine.write(program, "");
    make_trust_store(&machine.root(), program);
    machine
}

fn store_of(program: &str) -> &'static str {
    match program {
        DEBIAN => "/etc/ssl/certs/ca-certificates.crt",
        _ => "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    }
}

fn trusting(bundles: &BTreeMap<&str, &str>) -> Request {
    let bundle = |(name, pem): (&&str, &&str)| json!({"name": name, "pem": pem, "install": true});
    request(json!({"trust": {"caBundles": bundles.iter().map(bundle).collect::<Vec<_>>()}}))
}

#[tokio::test]
async fn certificates_are_trusted_and_stay_so_and_go() {
    let [own, one, two, three] = ["own", "one", "two", "three"].map(certificate);
    for (program, renew) in [(DEBIAN, format!("{DEBIAN} --fresh")), (RED_HAT, format!("{RED_HAT} extract"))] {
        let machine = machine(program, &own);
        let before = machine.tree();
        let store = store_of(program);
        let update = if program == DEBIAN { DEBIAN.to_owned() } else { renew.clone() };
        let (run, renewed) = (format!("run {update} as {UNIT}"), format!("run {renew} as {UNIT}"));

        // Two in one bundle, with text around them.
        let both = format!("The first.\n{one}The second.\n{two}");
        let spec = trusting(&[("corporate", both.as_str()), ("lab", &three)].into());
        let made = machine.apply(&spec).await.unwrap();
        assert_eq!(lines(&made).last().unwrap(), "caBundle corporate, lab: bring into the trust store");
        assert_eq!(machine.systemd.take_asked(), [run.as_str()]);
        let files: Vec<_> =
            machine.tree().into_keys().filter(|path| path.contains("nodebootstrap-workers.")).collect();
        assert_eq!(files.len(), 3, "one for each certificate: {files:?}");
        let trusted = machine.read(store);
        assert!([&own, &one, &two, &three].iter().all(|pem| trusted.contains(pem.as_str())), "{trusted}");
        assert!(!trusted.contains("The first"), "{trusted}");
        assert!(machine.plan(&spec).await.is_empty());

        // Somebody takes them from the store; and then one also from where it comes from.
        machine.write(store, &own);
        let made = machine.apply(&spec).await.unwrap();
        assert_eq!(lines(&made), ["caBundle corporate, lab: bring into the trust store"]);
        std::fs::remove_file(machine.path(&format!("/{}", files[0]))).unwrap();
        make_trust_store(&machine.root(), program);
        let made = machine.apply(&spec).await.unwrap();
        assert_eq!(made.len(), 2, "{made:?}");
        assert!(made[0].change.starts_with(&format!("/{}: create", files[0])), "{made:?}");
        assert_eq!(machine.read(store), trusted);
        machine.systemd.take_asked();

        // One goes with an edit.
        let fewer = trusting(&[("corporate", both.as_str())].into());
        let made = machine.apply(&fewer).await.unwrap();
        assert_eq!(lines(&made).last().unwrap(), "trust store: make it anew, without what has gone");
        assert_eq!(machine.systemd.take_asked(), [renewed.as_str()]);
        assert!(!machine.read(store).contains(&three) && machine.read(store).contains(&two));

        machine.revert("workers").await.unwrap();
        assert_eq!(machine.tree(), before);
        assert_eq!(machine.systemd.take_asked(), [renewed.as_str()]);
    }
}

#[tokio::test]
async fn what_is_rolled_back_is_trusted_as_before() {
    let [own, one, two] = ["own", "one", "two"].map(certificate);
    let machine = machine(DEBIAN, &own);
    let first = trusting(&[("corporate", one.as_str())].into());
    let second = trusting(&[("lab", two.as_str())].into());
    machine.apply(&first).await.unwrap();
    let before = machine.tree();
    let previous = machine.host().state.begun("workers").unwrap();
    machine.apply_held(&second, usize::MAX).await.unwrap();
    assert!(machine.read(store_of(DEBIAN)).contains(&two) && machine.tree() != before);
    let made = machine.roll_back("workers", previous.as_ref(), usize::MAX).await.unwrap();
    assert_eq!(lines(&made).last().unwrap(), "trust store: make it anew, without what has gone");
    assert!(machine.tree() == before);
    assert!(machine.plan(&first).await.is_empty());
}

#[tokio::test]
async fn a_run_that_broke_off_is_finished() {
    let [own, one] = ["own", "one"].map(certificate);
    let machine = machine(DEBIAN, &own);
    let before = machine.tree();
    let spec = trusting(&[("corporate", one.as_str())].into());
    let store = store_of(DEBIAN);

    // The file is there, and its folder: the program has not run, or has failed.
    machine.apply_until(&spec, 3).await.unwrap_err();
    assert!(!machine.read(store).contains(&one));
    *machine.systemd.broken.borrow_mut() = Some(UNIT.to_owned());
    let failure = machine.apply(&spec).await.unwrap_err();
    assert!(failure.message.starts_with("caBundle corporate: "), "{failure:?}");
    *machine.systemd.broken.borrow_mut() = None;
    assert_eq!(
        lines(&machine.apply(&spec).await.unwrap()),
        ["caBundle corporate: bring into the trust store"]
    );
    assert!(machine.read(store).contains(&one));

    // The file is gone, and nothing but our own word tells that the store still has what was in it.
    machine.revert_until("workers", 1).await.unwrap_err();
    assert!(
        machine.read(store).contains(&one) && machine.tree().keys().all(|path| !path.contains("corporate"))
    );
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn what_the_distribution_trusts_by_itself_it_goes_on_to_trust() {
    let own = certificate("own");
    let machine = machine(DEBIAN, &own);
    let before = machine.tree();
    let spec = trusting(&[("corporate", own.as_str())].into());
    machine.apply(&spec).await.unwrap();
    assert_eq!(machine.systemd.take_asked(), Vec::<String>::new(), "it is trusted already");
    machine.revert("workers").await.unwrap();
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn two_node_bootstraps_may_trust_the_same() {
    let [own, one] = ["own", "one"].map(certificate);
    let machine = machine(DEBIAN, &own);
    let spec = trusting(&[("corporate", one.as_str())].into());
    let mut other = spec.clone();
    other.revision.node_bootstrap = "others".to_owned();
    machine.apply(&spec).await.unwrap();
    machine.apply(&other).await.unwrap();
    machine.revert("workers").await.unwrap();
    assert!(machine.read(store_of(DEBIAN)).contains(&one), "the other has it still");
    assert!(machine.plan(&other).await.is_empty());
}

#[tokio::test]
async fn a_host_that_cannot_says_why() {
    let [own, one] = ["own", "one"].map(certificate);
    let spec = trusting(&[("corporate", one.as_str())].into());
    assert_eq!(reasons(&Machine::new().plan(&spec).await), ["caBundle corporate: NoTrustStore"]);
    let cut = trusting(&[("corporate", &one[..one.len() - 30])].into());
    assert_eq!(reasons(&machine(DEBIAN, &own).plan(&cut).await), ["caBundle corporate: BadCertificates"]);
}

#[tokio::test]
async fn in_a_root_that_does_not_run_the_files_are_made_and_the_rest_is_said() {
    let [own, one] = ["own", "one"].map(certificate);
    let machine = machine(RED_HAT, &own);
    let spec = trusting(&[("corporate", one.as_str())].into());
    let host = Host::open(&machine.root_path(), false).unwrap();
    machine.apply_on(&host, &spec).await.unwrap();
    let plan = node_agent::engine::plan(&host, &spec).await.unwrap();
    assert!(plan.is_empty() && plan.warnings.len() == 1, "{plan:?}");
    assert!(plan.warnings[0].ends_with("run /usr/bin/update-ca-trust extract there"), "{:?}", plan.warnings);
    // Once it runs, it is seen what is missing.
    assert_eq!(
        lines(&machine.apply(&spec).await.unwrap()),
        ["caBundle corporate: bring into the trust store"]
    );
}
