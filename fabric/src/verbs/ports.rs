//! Which port of which device a connection goes over: the one that has the
//! address of our end of its control connection, as sysfs tells
//! (Documentation/ABI/stable/sysfs-class-infiniband of the kernel).

use super::attach::Place;
use super::device::{Device, library};
use super::sys::{LINK_ETHERNET, PORT_ACTIVE};
use crate::FabricError;
use std::collections::BTreeMap;
use std::fs::read_to_string;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Where the kernel lists devices.
pub(crate) const SYSFS: &str = "/sys/class/infiniband";
/// Names the device to be used, DEVICE or DEVICE/PORT, where several could be
/// or none has the address (InfiniBand without IPoIB).
pub const DEVICE_VARIABLE: &str = "SPLITKERNEL_VERBS_DEVICE";

/// A port as sysfs describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Port {
    pub(crate) device: String,
    pub(crate) number: u8,
    pub(crate) active: bool,
    pub(crate) ethernet: bool,
    pub(crate) gids: Vec<Gid>,
}

/// An entry of a port's table of GIDs that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Gid {
    pub(crate) index: u8,
    pub(crate) address: Ipv6Addr,
    /// As RoCE v2 (UDP), which is the only one of RoCE's that is used.
    pub(crate) routable: bool,
}

fn entries(dir: &Path) -> Vec<String> {
    let Ok(found) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let mut names: Vec<String> = found
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    // By number where they are numbers.
    names.sort_by_key(|name| (name.parse::<u32>().ok(), name.clone()));
    names
}

/// All ports, in the order of their names.
pub(crate) fn scan(root: &Path) -> Vec<Port> {
    let mut ports = Vec::new();
    for device in entries(root) {
        let all = root.join(&device).join("ports");
        for number in entries(&all) {
            if let Ok(n) = number.parse() {
                ports.push(read_port(&all.join(&number), &device, n));
            }
        }
    }
    ports
}

fn read_port(dir: &Path, device: &str, number: u8) -> Port {
    let text = |name: &str| read_to_string(dir.join(name)).unwrap_or_default();
    Port {
        device: device.to_owned(),
        number,
        active: text("state").starts_with("4:"),
        ethernet: text("link_layer").trim() == "Ethernet",
        gids: read_gids(dir),
    }
}

fn read_gids(dir: &Path) -> Vec<Gid> {
    let names = entries(&dir.join("gids"));
    names
        .iter()
        .filter_map(|name| read_gid(dir, name))
        .collect()
}

fn read_gid(port: &Path, name: &str) -> Option<Gid> {
    let text = read_to_string(port.join("gids").join(name)).ok()?;
    let address: Ipv6Addr = text.trim().parse().ok()?;
    if address.is_unspecified() {
        return None;
    }
    // Reading the type of an unused entry fails.
    let kind = read_to_string(port.join("gid_attrs/types").join(name)).ok()?;
    Some(Gid {
        index: name.parse().ok()?,
        address,
        routable: kind.trim() == "RoCE v2",
    })
}

/// An address as GIDs have it.
fn as_gid(address: IpAddr) -> Ipv6Addr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Whether a port is the one that `named` names.
fn is_named(port: &Port, named: &str) -> bool {
    match named.split_once('/') {
        Some((device, number)) => port.device == device && number == port.number.to_string(),
        None => port.device == named,
    }
}

/// The port, and its GID, for a connection whose end here has `local`.
pub(crate) fn choose(
    ports: &[Port],
    local: IpAddr,
    named: Option<&str>,
) -> Result<(Port, Gid), String> {
    let allowed = |p: &&Port| named.is_none_or(|n| is_named(p, n));
    let active: Vec<&Port> = ports.iter().filter(allowed).filter(|p| p.active).collect();
    if active.is_empty() {
        return Err(why_none(ports, named));
    }
    let wanted = as_gid(local);
    let first = |fits: &dyn Fn(&Port, &Gid) -> bool| {
        active.iter().find_map(|port| {
            let gid = port.gids.iter().find(|gid| fits(port, gid))?;
            Some(((*port).clone(), *gid))
        })
    };
    let exact = first(&|port, gid| gid.address == wanted && (gid.routable || !port.ethernet));
    // The same machine reaches itself over any port; InfiniBand goes by LIDs,
    // not by addresses; and who names a device knows why.
    let any = || {
        let lenient = local.to_canonical().is_loopback() || named.is_some();
        first(&|port, gid| {
            if port.ethernet {
                lenient && gid.routable && gid.address.to_ipv4_mapped().is_some()
            } else {
                true
            }
        })
    };
    exact.or_else(any).ok_or_else(|| {
        let devices: Vec<&str> = active.iter().map(|p| p.device.as_str()).collect();
        format!(
            "no RDMA device has the address {local} (there are {}): use an address of a \
             device's network interface, make a soft-RoCE device on it (rdma link add rxe0 type \
             rxe netdev INTERFACE), or name a device in {DEVICE_VARIABLE}",
            devices.join(", ")
        )
    })
}

fn why_none(ports: &[Port], named: Option<&str>) -> String {
    if let Some(named) = named {
        return format!("{DEVICE_VARIABLE} names {named:?}, which has no active port");
    }
    match ports.first() {
        Some(port) => format!(
            "RDMA device {} has no active port: bring its network interface up (ip link set \
             INTERFACE up)",
            port.device
        ),
        None => "this machine has no RDMA device: make a soft-RoCE one (modprobe rdma_rxe; rdma \
                 link add rxe0 type rxe netdev INTERFACE), or install the driver of its NIC"
            .to_owned(),
    }
}

/// What a person asked for in [`DEVICE_VARIABLE`].
pub(crate) fn named() -> Option<String> {
    std::env::var(DEVICE_VARIABLE)
        .ok()
        .filter(|n| !n.is_empty())
}

/// As [`choose`], remembering what was chosen for as long as it is so: tables
/// of GIDs have a thousand entries, each a file.
fn find(local: IpAddr) -> Result<(Port, Gid), String> {
    static CHOSEN: Mutex<BTreeMap<IpAddr, (Port, Gid)>> = Mutex::new(BTreeMap::new());
    let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((port, gid)) = chosen.get(&local)
        && is_still_so(port, gid)
    {
        return Ok((port.clone(), *gid));
    }
    let found = choose(&scan(Path::new(SYSFS)), local, named().as_deref())?;
    chosen.insert(local, found.clone());
    Ok(found)
}

fn is_still_so(port: &Port, gid: &Gid) -> bool {
    let dir = Path::new(SYSFS).join(&port.device).join("ports");
    let dir = dir.join(port.number.to_string());
    read_gid(&dir, &gid.index.to_string()).as_ref() == Some(gid)
}

/// Opens the device for connections whose end here has `local`.
pub(crate) fn open(local: IpAddr, floor: Option<i32>) -> Result<(Arc<Device>, Place), FabricError> {
    library()?;
    let (port, gid) = find(local).map_err(|why| FabricError::local("RDMA verbs", why))?;
    let device = Device::open(&port.device, floor)?;
    let now = device.port(port.number)?;
    if now.state != PORT_ACTIVE {
        let why = format!("port {} is not active", port.number);
        return Err(FabricError::local(
            &format!("RDMA device {}", port.device),
            why,
        ));
    }
    let limits = device.limits();
    let at_a_time = |n: i32| u8::try_from(n.clamp(1, 255)).unwrap_or(1);
    let place = Place {
        port: port.number,
        gid_index: gid.index,
        ethernet: now.link_layer == LINK_ETHERNET,
        mtu: u8::try_from(now.active_mtu.clamp(1, 5)).unwrap_or(1),
        answers: at_a_time(limits.max_qp_rd_atom),
        asks: at_a_time(limits.max_qp_init_rd_atom),
        lid: now.lid,
        gid: gid.address.octets(),
    };
    Ok((device, place))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gid(index: u8, address: &str, routable: bool) -> Gid {
        Gid {
            index,
            address: address.parse().unwrap(),
            routable,
        }
    }

    fn port(device: &str, ethernet: bool, gids: Vec<Gid>) -> Port {
        Port {
            device: device.to_owned(),
            number: 1,
            active: true,
            ethernet,
            gids,
        }
    }

    fn machine() -> Vec<Port> {
        let first = vec![gid(0, "fe80::1", false), gid(1, "::ffff:10.0.0.1", false)];
        let second = vec![
            gid(0, "fe80::2", true),
            gid(2, "::ffff:10.0.1.1", false),
            gid(3, "::ffff:10.0.1.1", true),
            gid(5, "fd00::7", true),
        ];
        vec![port("mlx5_0", true, first), port("mlx5_1", true, second)]
    }

    fn chosen(ports: &[Port], local: &str, named: Option<&str>) -> Result<(String, u8), String> {
        choose(ports, local.parse().unwrap(), named).map(|(port, gid)| (port.device, gid.index))
    }

    #[test]
    fn a_port_is_chosen_by_its_address() {
        let ports = machine();
        let second = |index| Ok(("mlx5_1".to_owned(), index));
        assert_eq!(chosen(&ports, "10.0.1.1", None), second(3), "RoCE v2");
        assert_eq!(chosen(&ports, "::ffff:10.0.1.1", None), second(3));
        assert_eq!(chosen(&ports, "fd00::7", None), second(5));
        assert_eq!(chosen(&ports, "127.0.0.1", None), second(3), "any is near");
        assert_eq!(chosen(&ports, "192.168.0.1", Some("mlx5_1/1")), second(3));
        let unknown = chosen(&ports, "192.168.0.1", None).unwrap_err();
        assert!(unknown.contains("192.168.0.1") && unknown.contains("rdma link add"));
        let version_1 = chosen(&ports, "10.0.0.1", None);
        assert!(version_1.is_err(), "RoCE v1 is not routed");
        assert!(chosen(&ports, "10.0.1.1", Some("mlx5_1/2")).is_err());
    }

    #[test]
    fn infiniband_needs_no_address() {
        let ports = [port("ib0", false, vec![gid(0, "fe80::5", false)])];
        assert_eq!(chosen(&ports, "10.0.0.1", None), Ok(("ib0".to_owned(), 0)));
    }

    #[test]
    fn what_is_missing_is_told() {
        assert!(
            chosen(&[], "10.0.0.1", None)
                .unwrap_err()
                .contains("rdma_rxe")
        );
        let mut down = machine();
        down.iter_mut().for_each(|p| p.active = false);
        let error = chosen(&down, "10.0.1.1", None).unwrap_err();
        assert!(error.contains("mlx5_0") && error.contains("ip link set"));
        let error = chosen(&machine(), "10.0.1.1", Some("other")).unwrap_err();
        assert!(error.contains("other"));
    }

    #[test]
    fn sysfs_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let port = dir.path().join("rxe0/ports/1");
        for sub in ["gids", "gid_attrs/types"] {
            std::fs::create_dir_all(port.join(sub)).unwrap();
        }
        let put = |name: &str, text: &str| std::fs::write(port.join(name), text).unwrap();
        put("state", "4: ACTIVE\n");
        put("link_layer", "Ethernet\n");
        put("gids/1", "0000:0000:0000:0000:0000:ffff:0a4d:0001\n");
        put("gid_attrs/types/1", "RoCE v2\n");
        put("gids/10", "0000:0000:0000:0000:0000:0000:0000:0000\n");
        put("gids/2", "fe80:0000:0000:0000:5054:00ff:fe00:0001\n");
        put("gid_attrs/types/2", "IB/RoCE v1\n");
        let gids = vec![
            gid(1, "::ffff:10.77.0.1", true),
            gid(2, "fe80::5054:ff:fe00:1", false),
        ];
        assert_eq!(scan(dir.path()), [super::tests::port("rxe0", true, gids)]);
        assert!(scan(&dir.path().join("absent")).is_empty());
    }
}
