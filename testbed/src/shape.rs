//! The shape of a program's cache, from what people write.

use crate::cli::CacheArgs;
use proto::process::CacheConfig;

/// Fewest lines that a processor component accepts in a cache.
const LEAST_LINES: u64 = 32;

/// A size as `--cache` has it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum CacheSize {
    /// That many.
    Bytes(u64),
    /// Per cent of the program's peak footprint.
    Percent(f64),
}

/// A [`CacheSize`] from `64M` or `25%`.
pub(crate) fn parse_cache(text: &str) -> Result<CacheSize, String> {
    if text.trim_end().ends_with('%') {
        return member::parse_percent(text)
            .map(CacheSize::Percent)
            .map_err(|e| e.to_string());
    }
    match member::parse_size(text) {
        Ok(0) => Err("a cache must hold something: give a size such as 64M".to_owned()),
        Ok(bytes) => Ok(CacheSize::Bytes(bytes)),
        Err(e) => Err(format!(
            "{e}, or a share of the program's footprint such as 25%"
        )),
    }
}

/// The size of a line.
pub(crate) fn parse_line(text: &str) -> Result<u64, String> {
    let line = member::parse_size(text).map_err(|e| e.to_string())?;
    if line.is_power_of_two() && (4096..=2 << 20).contains(&line) {
        Ok(line)
    } else {
        Err(format!(
            "a line of {line} bytes is not a power of two from 4 KiB to 2 MiB"
        ))
    }
}

/// As [`parse_switch`] reads it.
pub(crate) fn switch(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// `on` or `off`.
pub(crate) fn parse_switch(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("give on or off".to_owned()),
    }
}

/// What `args` say, and where they say nothing, `defaults`. The size is the
/// defaults' where a share is asked for: it is not known yet.
pub(crate) fn config(args: &CacheArgs, defaults: &CacheConfig) -> Result<CacheConfig, String> {
    let config = CacheConfig {
        size: match args.cache {
            Some(CacheSize::Bytes(bytes)) => bytes,
            _ => defaults.size,
        },
        line: args.line.unwrap_or(defaults.line),
        ways: args.ways.or(defaults.ways),
        policy: args.policy.map_or(defaults.policy, Into::into),
        prefetch: args.prefetch.unwrap_or(defaults.prefetch),
        run_ahead: args.run_ahead.unwrap_or(defaults.run_ahead),
    };
    let divided = args.ways.is_some() && matches!(args.cache, Some(CacheSize::Bytes(_)));
    check(&config, divided)?;
    Ok(config)
}

/// Refuses what no processor component would take. Ways that were asked for
/// must divide the lines; those of a configuration file make the cache a little
/// smaller.
pub(crate) fn check(config: &CacheConfig, divided: bool) -> Result<(), String> {
    let CacheConfig {
        size, line, ways, ..
    } = *config;
    let (lines, least) = (size / line, LEAST_LINES * line);
    if lines < LEAST_LINES {
        return Err(format!(
            "--cache: {size} bytes hold {lines} lines of {line} bytes; a cache needs at least \
             {LEAST_LINES}: give --cache {least} or more, or a smaller --line"
        ));
    }
    let ways = ways.filter(|&ways| divided && !lines.is_multiple_of(u64::from(ways)));
    if let Some(ways) = ways {
        let set = u64::from(ways) * line;
        let below = size / set * set;
        let fits = if below >= least { below } else { below + set };
        return Err(format!(
            "--ways: {ways} ways do not divide the {lines} lines of a cache of {size} bytes: \
             give a --cache that is a multiple of {set}, such as {fits}, or other --ways"
        ));
    }
    Ok(())
}

/// The size of a cache that is a share of a footprint: whole lines, and whole sets
/// where ways were asked for, never more
/// than the share unless that were too little to run at all.
pub(crate) fn share(percent: f64, footprint: u64, config: &CacheConfig) -> u64 {
    // Exact below 2^53 bytes, and rounded anyway.
    let wanted = (footprint as f64 * percent / 100.0) as u64;
    let set = config.line * u64::from(config.ways.unwrap_or(1));
    let whole = if wanted >= set {
        wanted / set * set
    } else {
        wanted / config.line * config.line
    };
    whole.max(LEAST_LINES * config.line)
}

/// A cache that holds all that memory components of `memory` bytes can, and as
/// much again of files.
pub(crate) fn full(memory: u64, config: &CacheConfig) -> u64 {
    let set = config.line * u64::from(config.ways.unwrap_or(1));
    memory
        .saturating_mul(2)
        .clamp(1 << 30, 1 << 36)
        .next_multiple_of(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(cache: CacheSize, ways: Option<u32>) -> Result<CacheConfig, String> {
        let args = CacheArgs {
            cache: Some(cache),
            ways,
            ..CacheArgs::default()
        };
        config(&args, &CacheConfig::default())
    }

    #[test]
    fn ways_that_do_not_divide_are_refused_with_a_size_that_fits() {
        let said = asked(CacheSize::Bytes(1_000_000), Some(64)).expect_err("accepted");
        assert!(said.contains("--ways") && said.contains("786432"), "{said}");
        assert!(asked(CacheSize::Bytes(786_432), Some(64)).is_ok());
        let said = asked(CacheSize::Bytes(200_000), Some(64)).expect_err("accepted");
        assert!(said.contains("such as 262144"), "{said}");
    }

    #[test]
    fn ways_by_default_need_not_divide() {
        assert_eq!(
            asked(CacheSize::Bytes(100_000_000), None).map(|c| c.size),
            Ok(100_000_000)
        );
    }

    #[test]
    fn too_small_is_refused() {
        let said = asked(CacheSize::Bytes(4096), None).expect_err("accepted");
        assert!(said.contains("--cache 131072"), "{said}");
    }

    #[test]
    fn shares_are_whole_sets_and_no_more_than_asked() {
        let config = CacheConfig {
            ways: Some(64),
            ..CacheConfig::default()
        };
        let set = config.line * 64;
        for (percent, footprint) in [(25.0, 400 << 20), (100.0, 123_456_789), (33.3, 1 << 20)] {
            let size = share(percent, footprint, &config);
            let asked = footprint as f64 * percent / 100.0;
            assert!(size.is_multiple_of(set) && check(&config, true).is_ok());
            assert!(size as f64 <= asked && (size + set) as f64 > asked);
        }
        assert_eq!(share(50.0, 300 << 10, &config), 148 << 10);
        assert_eq!(share(0.1, 4096, &config), LEAST_LINES * config.line);
        let usual = CacheConfig::default();
        assert_eq!(share(50.0, 123 << 12, &usual), 61 << 12);
    }
}
