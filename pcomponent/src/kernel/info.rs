//! What pseudo-files tell about the process and the machine.

use super::Kernel;
use abi_linux::kernel::{MapLine, ProcessInfo};
use aspace::{Vma, VmaBacking};
use proto::mem::MapFlags;

impl ProcessInfo for Kernel<'_> {
    fn argv(&self) -> Vec<Vec<u8>> {
        self.shared().spawn.argv.clone()
    }

    fn environ(&self) -> Vec<Vec<u8>> {
        self.shared().spawn.envp.clone()
    }

    fn executable(&self) -> Vec<u8> {
        self.shared().executable()
    }

    fn auxv(&self) -> Vec<u8> {
        self.shared().auxv()
    }

    fn maps(&self) -> Vec<MapLine> {
        let (stack, _) = self.stack();
        self.process
            .memory
            .space()
            .iter()
            .map(|vma| self.line(vma, stack))
            .collect()
    }

    fn stack(&self) -> (u64, u64) {
        self.shared().stack()
    }

    fn memory(&self) -> (u64, u64) {
        self.process.memory.machine()
    }

    fn footprint(&self) -> (u64, u64) {
        self.process.memory.footprint()
    }

    fn statistics(&self) -> Vec<u8> {
        let mut stats = self.process.registry.sum();
        self.process.memory.report_cache(&mut stats);
        let mut text = serde_json::to_vec(&stats).unwrap_or_default();
        text.push(b'\n');
        text
    }

    fn started(&self) -> u64 {
        self.shared().started
    }

    fn cpuinfo(&self) -> Vec<u8> {
        std::fs::read("/proc/cpuinfo").unwrap_or_default()
    }

    fn version(&self) -> Vec<u8> {
        std::fs::read("/proc/version").unwrap_or_default()
    }
}

impl Kernel<'_> {
    fn line(&self, vma: &Vma, stack: u64) -> MapLine {
        let (offset, inode) = match &vma.backing {
            VmaBacking::Anonymous => (0, 0),
            VmaBacking::File { file, offset } => (*offset, file.id.ino),
        };
        let name = match &vma.backing {
            _ if vma.flags.has(MapFlags::HEAP) => b"[heap]".to_vec(),
            _ if vma.range.contains(proto::UserAddr(stack)) => b"[stack]".to_vec(),
            VmaBacking::Anonymous => Vec::new(),
            VmaBacking::File { file, .. } => self.shared().path_of_mapping(file),
        };
        MapLine {
            range: vma.range,
            prot: vma.prot,
            shared: vma.flags.has(MapFlags::SHARED),
            offset,
            inode,
            name,
        }
    }
}
