//! `pcomponent`: see the library.

fn main() -> anyhow::Result<()> {
    pcomponent::run()
}
