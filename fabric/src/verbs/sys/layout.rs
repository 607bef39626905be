//! Sizes and offsets of the binding, against the header's.

use super::*;
use std::mem::{offset_of, size_of};

/// What `offsetof` and `sizeof` say of rdma-core 44's header, x86-64.
#[test]
fn layouts_are_those_of_the_header() {
    let sizes = [
        (size_of::<DeviceAttr>(), 232),
        (size_of::<PortAttr>(), 52),
        (size_of::<Wc>(), 48),
        (size_of::<Sge>(), 16),
        (size_of::<SendWr>(), 128),
        (size_of::<RecvWr>(), 32),
        (size_of::<QpInitAttr>(), 64),
        (size_of::<QpAttr>(), 144),
        (size_of::<AhAttr>(), 32),
        (size_of::<SrqInitAttr>(), 24),
        (size_of::<Ops>(), 256),
        (size_of::<Mr>(), 48),
        (size_of::<CompChannel>(), 16),
    ];
    for (n, (ours, header)) in sizes.into_iter().enumerate() {
        assert_eq!(ours, header, "size {n}");
    }
    let offsets = [
        (offset_of!(DeviceAttr, max_mr_size), 80),
        (offset_of!(DeviceAttr, max_qp_wr), 112),
        (offset_of!(DeviceAttr, max_sge), 120),
        (offset_of!(DeviceAttr, max_cqe), 132),
        (offset_of!(DeviceAttr, max_qp_rd_atom), 144),
        (offset_of!(DeviceAttr, max_qp_init_rd_atom), 156),
        (offset_of!(DeviceAttr, max_srq_wr), 216),
        (offset_of!(DeviceAttr, phys_port_cnt), 227),
        (offset_of!(PortAttr, active_mtu), 8),
        (offset_of!(PortAttr, max_msg_sz), 20),
        (offset_of!(PortAttr, lid), 34),
        (offset_of!(PortAttr, link_layer), 46),
        (offset_of!(Wc, imm_data), 24),
        (offset_of!(Wc, qp_num), 28),
        (offset_of!(Wc, wc_flags), 36),
        (offset_of!(SendWr, num_sge), 24),
        (offset_of!(SendWr, imm_data), 36),
        (offset_of!(SendWr, remote_addr), 40),
        (offset_of!(SendWr, rkey), 48),
        (offset_of!(QpInitAttr, cap), 32),
        (offset_of!(QpInitAttr, qp_type), 52),
        (offset_of!(QpAttr, cap), 36),
        (offset_of!(QpAttr, ah_attr), 56),
        (offset_of!(QpAttr, alt_ah_attr), 88),
        (offset_of!(QpAttr, pkey_index), 120),
        (offset_of!(QpAttr, max_rd_atomic), 126),
        (offset_of!(QpAttr, timeout), 130),
        (offset_of!(QpAttr, rate_limit), 136),
        (offset_of!(AhAttr, dlid), 24),
        (offset_of!(AhAttr, port_num), 30),
        (offset_of!(Ops, poll_cq), 88),
        (offset_of!(Ops, req_notify_cq), 96),
        (offset_of!(Ops, post_srq_recv), 160),
        (offset_of!(Ops, post_send), 200),
        (offset_of!(Context, ops), 8),
        (offset_of!(Context, cmd_fd), 264),
        (offset_of!(Context, async_fd), 268),
        (offset_of!(Mr, lkey), 36),
        (offset_of!(Mr, rkey), 40),
        (offset_of!(Qp, qp_num), 52),
        (offset_of!(CompChannel, fd), 8),
    ];
    for (n, (ours, header)) in offsets.into_iter().enumerate() {
        assert_eq!(ours, header, "offset {n}");
    }
}
