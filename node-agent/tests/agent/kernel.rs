//! Kernel modules and settings.

use node_agent::preset;
use serde_json::{Value, json};

use crate::support::{Machine, lines, reasons, request};

const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
const RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

fn machine() -> Machine {
    let machine = Machine::new();
    for folder in ["/proc/sys/net/ipv4", "/proc/sys/kernel", "/sys/module/overlay", "/lib/modules/6.1"] {
        machine.directory(folder);
    }
    machine.write("/proc/sys/kernel/osrelease", "6.1\n");
    machine.write(FORWARD, "0\n");
    machine.write(RANGE, "32768\t60999\n");
    machine
        .write("/lib/modules/6.1/modules.dep", "kernel/net/br-netfilter.ko.zst: kernel/net/bridge.ko.zst\n");
    machine.write("/lib/modules/6.1/modules.builtin", "kernel/fs/ext4/ext4.ko\n");
    machine
}

fn kernel(modules: Value, sysctls: Value) -> node_agent::engine::Request {
    request(json!({"kernel": {"modules": modules, "sysctls": sysctls}}))
}

#[tokio::test]
async fn settings_are_made_now_and_for_the_next_boot_and_put_back() {
    let machine = machine();
    let before = machine.tree();
    let spec =
        kernel(json!([]), json!({"net.ipv4.ip_forward": "1", "net.ipv4.ip_local_port_range": "32768 60999"}));
    let made = machine.apply(&spec).await.unwrap();
    assert_eq!(lines(&made)[2..], ["sysctl net.ipv4.ip_forward: 0 to 1"], "one was so already: {made:?}");
    assert_eq!(machine.read(FORWARD), "1\n");
    assert_eq!(
        machine.read("/etc/sysctl.d/90-nodebootstrap-workers.conf"),
        "# Kept by the NodeBootstrap workers.\nnet.ipv4.ip_forward = 1\nnet.ipv4.ip_local_port_range = 32768 60999\n"
    );
    assert!(machine.plan(&spec).await.is_empty());

    // Drift.
    machine.write(FORWARD, "0\n");
    let made = machine.apply(&spec).await.unwrap();
    assert_eq!((lines(&made).len(), made[0].found.as_str()), (1, "was 0"));

    let made = machine.revert("workers").await.unwrap();
    assert!(lines(&made).contains(&"sysctl net.ipv4.ip_forward: 0 as before".to_owned()), "{made:?}");
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn a_setting_that_somebody_changed_since_is_left() {
    let machine = machine();
    machine.apply(&kernel(json!([]), json!({"net.ipv4.ip_forward": "1"}))).await.unwrap();
    machine.write(FORWARD, "2\n");
    let made = machine.revert("workers").await.unwrap();
    assert!(made.iter().any(|change| change.is_left()), "{made:?}");
    assert_eq!(machine.read(FORWARD), "2\n");
}

#[tokio::test]
async fn modules_are_loaded_before_the_settings_that_they_bring() {
    let machine = machine();
    machine.directory("/proc/sys/net/bridge");
    let bridge = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    *machine.systemd.brings.borrow_mut() = Some(bridge.to_owned());
    let spec = kernel(
        json!(["overlay", "br_netfilter", "ext4"]),
        json!({"net.bridge.bridge-nf-call-iptables": "1"}),
    );
    let made = machine.apply(&spec).await.unwrap();
    assert!(lines(&made).contains(&"module br_netfilter: load".to_owned()), "{made:?}");
    assert_eq!(machine.systemd.take_asked(), ["load modules"]);
    assert_eq!(machine.read(bridge), "1\n");
    assert_eq!(
        machine.read("/etc/modules-load.d/nodebootstrap-workers.conf"),
        "# Kept by the NodeBootstrap workers.\nbr_netfilter\next4\noverlay\n"
    );
    assert!(machine.plan(&spec).await.is_empty());
    *machine.systemd.brings.borrow_mut() = None;
    std::fs::remove_dir(machine.path("/sys/module/br_netfilter")).unwrap();
    assert_eq!(lines(&machine.apply(&spec).await.unwrap()), ["module br_netfilter: load"]);
    // The module stays, and with it the setting, of which no earlier value is known; nobody has to do anything about it.
    let made = machine.revert("workers").await.unwrap();
    let stays = "sysctl net.bridge.bridge-nf-call-iptables: stays until the next boot: it came with a kernel module, and goes with it";
    assert!(lines(&made).contains(&stays.to_owned()), "{made:?}");
    assert!(!made.iter().any(|change| change.is_left()), "{made:?}");
    assert!(!machine.is_there("/etc/modules-load.d") && machine.is_there("/sys/module/br_netfilter"));
    assert_eq!(machine.revert("workers").await.unwrap(), [], "it is said once");
}

#[tokio::test]
async fn a_setting_that_went_with_its_module_is_done_with() {
    let machine = machine();
    machine.directory("/proc/sys/net/bridge");
    let bridge = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    *machine.systemd.brings.borrow_mut() = Some(bridge.to_owned());
    let spec = kernel(json!(["br_netfilter"]), json!({"net.bridge.bridge-nf-call-iptables": "1"}));
    machine.apply(&spec).await.unwrap();
    std::fs::remove_file(machine.path(bridge)).unwrap();
    let made = machine.revert("workers").await.unwrap();
    assert!(made.iter().all(|change| !change.resource.starts_with("sysctl ")), "{made:?}");
}

const SWAPS: &str = "Filename Type Size Used Priority\n";

/// A machine with 100 KiB of memory to be had, and swap of which so many KiB are in use.
fn with_swap(used: u64) -> Machine {
    let machine = machine();
    machine.write("/proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 100 kB\n");
    machine.write("/proc/swaps", &format!("{SWAPS}/dev/sda2 partition 1000 {used} -2\n"));
    machine.systemd.set("dev-sda2.swap", "active");
    machine.systemd.set("swap.target", "active");
    machine
}

#[tokio::test]
async fn swap_is_turned_off_now_and_for_the_next_boot_and_comes_back() {
    let machine = with_swap(99);
    let before = machine.tree();
    let spec = request(json!({"kernel": {"swap": "Disabled"}}));
    let made = machine.apply(&spec).await.unwrap();
    assert_eq!(lines(&made), ["unit swap.target: mask", "swap /dev/sda2: turn off, 99 KiB in use"]);
    assert_eq!(machine.systemd.take_asked(), ["stop dev-sda2.swap", "mask swap.target"]);
    assert!(machine.plan(&spec).await.is_empty());

    // A file that somebody makes swap.
    machine.write("/proc/swaps", &format!("{SWAPS}/swapfile file 1000 0 -2\n"));
    machine.systemd.set("swapfile.swap", "active");
    let made = machine.apply(&spec).await.unwrap();
    assert_eq!(lines(&made), ["swap /swapfile: turn off, 0 KiB in use"]);
    assert!(machine.plan(&spec).await.is_empty());
    machine.systemd.take_asked();

    // Of the file nothing is known any more.
    machine.systemd.units.borrow_mut().remove("swapfile.swap");
    let made = machine.revert("workers").await.unwrap();
    assert_eq!(machine.systemd.take_asked(), ["unmask swap.target", "start dev-sda2.swap"]);
    let left: Vec<_> = made.iter().filter(|change| change.is_left()).map(|change| &change.resource).collect();
    assert_eq!(left, ["unit swapfile.swap"]);
    machine.write("/proc/swaps", &format!("{SWAPS}/dev/sda2 partition 1000 99 -2\n"));
    assert_eq!(machine.tree(), before);
}

#[tokio::test]
async fn swap_stays_where_memory_does_not_take_it() {
    let machine = with_swap(100);
    let plan = machine.plan(&request(json!({"kernel": {"swap": "Disabled"}}))).await;
    assert_eq!(reasons(&plan), ["swap disabled: NoMemory"]);
    assert!(machine.plan(&request(json!({"kernel": {"swap": "Keep"}}))).await.is_empty());
}

#[tokio::test]
async fn what_the_kernel_does_not_have_is_a_problem() {
    let spec = kernel(json!(["ghost"]), json!({"net.ipv4.ghost": "1"}));
    assert_eq!(
        reasons(&machine().plan(&spec).await),
        ["module ghost: NoSuchModule", "sysctl net.ipv4.ghost: NoSuchSetting"]
    );
}

/// What the preset asks of the kernel, as a node has it before.
fn node() -> Machine {
    let machine = machine();
    for folder in ["/proc/sys/vm", "/proc/sys/net/bridge", "/proc/sys/fs/inotify"] {
        machine.directory(folder);
    }
    for (path, value) in [
        ("/proc/sys/vm/overcommit_memory", "0"),
        ("/proc/sys/kernel/panic", "0"),
        ("/proc/sys/fs/inotify/max_user_instances", "128"),
        ("/proc/sys/fs/inotify/max_user_watches", "1048576"),
        ("/proc/sys/net/ipv4/ip_local_reserved_ports", ""),
    ] {
        machine.write(path, &format!("{value}\n"));
    }
    *machine.systemd.brings.borrow_mut() = Some("/proc/sys/net/bridge/bridge-nf-call-iptables".to_owned());
    machine
}

#[tokio::test]
async fn the_preset_is_what_this_kernel_has_of_it_and_can_be_taken_back() {
    let machine = node();
    let before = machine.tree();
    let spec = request(json!({"kernel": {"preset": "kubernetes", "sysctls": {"kernel.panic": "60"}}}));
    let expanded = async || preset::expanded(&machine.host(), &spec).await.unwrap();
    let first = expanded().await;
    assert!(
        first.findings.warnings.iter().any(|warning| warning.contains("nf_conntrack")),
        "{:?}",
        first.findings
    );
    // The one that comes with a module that this kernel has only half of is a problem; here both are there.
    machine.write("/proc/sys/net/bridge/bridge-nf-call-ip6tables", "0\n");
    let made = lines(&machine.apply(&first).await.unwrap());
    assert_eq!(
        made[4..],
        [
            "module br_netfilter: load",
            "sysctl fs.inotify.max_user_instances: 128 to 8192",
            "sysctl kernel.panic: 0 to 60",
            "sysctl net.bridge.bridge-nf-call-ip6tables: 0 to 1",
            "sysctl net.bridge.bridge-nf-call-iptables: set to 1",
            "sysctl net.ipv4.ip_forward: 0 to 1",
            "sysctl net.ipv4.ip_local_reserved_ports:  to 30000-32767",
            "sysctl vm.overcommit_memory: 0 to 1",
        ]
    );
    assert_eq!(machine.read("/proc/sys/fs/inotify/max_user_watches"), "1048576\n");
    // It is the same on the node that it made.
    assert_eq!(expanded().await.revision, first.revision);
    assert!(machine.plan(&expanded().await).await.is_empty());

    machine.revert("workers").await.unwrap();
    let gone = [
        "sys/module/br_netfilter",
        "proc/sys/net/bridge/bridge-nf-call-iptables",
        "proc/sys/net/bridge/bridge-nf-call-ip6tables",
    ];
    let mut after = machine.tree();
    after.retain(|path, _| !gone.contains(&path.as_str()));
    assert_eq!(after, before);
}
