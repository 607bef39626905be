//! Any call with any arguments: an answer, never a panic, and memory that the
//! program can't write stays as it is.

use super::mock::{Mock, RO, RO_BYTE, RW};
use crate::table::TABLE;

/// Paths that lead nowhere outside the temporary directory.
const STRINGS: [&str; 8] = [
    "f",
    "/f",
    "d",
    "/d/x",
    "/proc/self/fd/3",
    "/dev/zero",
    "",
    "/proc/self/status",
];

fn prepared() -> Mock {
    let k = Mock::new();
    k.write_file("f", b"some content");
    std::fs::create_dir(k.root.path().join("d")).unwrap();
    for (n, text) in (0..).zip(STRINGS) {
        k.string(RW + n * 64, text);
    }
    // Vectors, times and sets that make sense.
    k.put_at(
        RW + 1024,
        &[RW + 2048, 100, RW + 3000, 7]
            .map(u64::to_le_bytes)
            .concat(),
    );
    k.put_at(RW + 1088, &[0u64, 1000].map(u64::to_le_bytes).concat());
    k.open("/f", 2);
    k.call(crate::consts::nr::__NR_pipe, &[RW + 4096]);
    k.open("/d", 0);
    k.open("/dev/zero", 2);
    k.open("/proc/self/status", 0);
    k
}

/// Makes a call; its result is a value or an errno, also where another
/// component lied about a size.
fn call(k: &Mock, number: u64, args: [u64; 6]) {
    if let crate::Outcome::Return(value) = crate::dispatch(k, number, args) {
        assert!(value >= -4095, "{number} {args:x?}: {value}");
    }
}

/// What must hold whatever was called.
fn check(k: &Mock) {
    assert_eq!(k.bytes(RO, 4096), [RO_BYTE; 4096]);
    // Every number of the table is open at the host.
    for fd in k.state.fds.numbers() {
        assert!(k.fds.borrow().contains_key(&fd), "{fd} is not reserved");
    }
}

/// Makes the calls that `data` spells: a byte names the call, then for each
/// argument one that says what kind it is and two for its value. The last byte
/// there is names no call: from there on other components claim the first
/// argument for every size.
pub fn calls(data: &[u8]) {
    const RECORD: usize = 1 + 6 * 3;
    let k = prepared();
    for record in data.chunks_exact(RECORD).take(64) {
        let argument = |n: usize| {
            let [kind, low, high] = [record[1 + n * 3], record[2 + n * 3], record[3 + n * 3]];
            let value = u64::from(low) | u64::from(high) << 8;
            match kind {
                0..96 => RW + value * 4,
                96..128 => RO + value,
                128..192 => value,
                192..224 => 1 << (value % 64),
                224..240 => value.wrapping_neg(),
                _ => value << 48 | value,
            }
        };
        if record[0] == u8::MAX {
            k.lie.set(Some(argument(0)));
            continue;
        }
        let number = TABLE[usize::from(record[0]) * TABLE.len() / 255].number;
        call(&k, number, std::array::from_fn(argument));
    }
    check(&k);
}

#[cfg(test)]
mod properties {
    use super::*;
    use crate::tests::mock::{HOLE, PID, RW_LEN};
    use proptest::prelude::*;

    fn argument() -> impl Strategy<Value = u64> {
        prop_oneof![
            4 => (0..RW_LEN).prop_map(|n| RW + n),
            2 => (0..RW_LEN / 64).prop_map(|n| RW + n * 64),
            2 => Just(RO),
            2 => Just(RW + RW_LEN - 4),
            1 => Just(HOLE),
            1 => Just(0),
            4 => 0u64..12,
            2 => 0u64..0x10000,
            1 => Just(-100i64 as u64),
            1 => Just(u64::MAX),
            1 => Just(PID as u64),
            1 => (0u32..64).prop_map(|n| 1 << n),
            1 => any::<u64>(),
        ]
    }

    fn any_call() -> impl Strategy<Value = (usize, [u64; 6])> {
        (0..TABLE.len(), prop::array::uniform6(argument()))
    }

    proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn any_sequence_of_calls(
        calls in prop::collection::vec(any_call(), 1..40),
        lie in prop::option::weighted(0.2, argument()),
    ) {
        let k = prepared();
        k.lie.set(lie);
        for (n, args) in calls {
            call(&k, TABLE[n].number, args);
        }
        check(&k);
    }

    #[test]
    fn any_number(number: u64, args in prop::array::uniform6(any::<u64>())) {
        call(&prepared(), number, args);
    }

        #[test]
        fn any_bytes_as_calls(data in prop::collection::vec(any::<u8>(), 0..400)) {
            calls(&data);
        }
    }
}
