//! `sweep.html`: one page that needs nothing else.

mod charts;
mod scale;
mod svg;
mod tables;

use super::record::Sweep;
use crate::table::bytes;
use svg::escaped;

const STYLE: &str = include_str!("style.css");

/// The whole page.
pub(super) fn html(sweep: &Sweep) -> String {
    let program = sweep
        .program
        .first()
        .map_or("", |name| name.rsplit('/').next().unwrap_or(""));
    let title = format!("{program}: slowdown against cache size");
    let over_time = charts::over_time(sweep);
    let over_time = over_time.unwrap_or_else(|| {
        "<p class=\"note\">The statistics of these runs have no samples over time.</p>\n".to_owned()
    });
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n\
         {}{}<h2>Slowdown</h2>\n{}<h2>Miss latency</h2>\n{}\
         <h2>Where a miss's time goes</h2>\n{}<h2>Over time</h2>\n{over_time}\
         <h2>Figures</h2>\n{}</body>\n</html>\n",
        preface(sweep),
        tables::wrong(sweep),
        charts::slowdown(sweep),
        charts::latency(sweep),
        charts::split(sweep),
        tables::figures(sweep),
        title = escaped(&title),
    )
}

fn preface(sweep: &Sweep) -> String {
    let machine = &sweep.machine;
    let swap = sweep
        .swap
        .as_ref()
        .map(|swap| format!("; swap: {swap}"))
        .unwrap_or_default();
    let note = format!(
        "Linux {}, {} with {} CPUs, {} of memory{swap}; testbed {}. Medians of {} rounds, whiskers \
         from the least to the most; in each round everything was run once, in turn.",
        machine.kernel,
        machine.processor,
        machine.cpus,
        bytes(machine.memory_bytes),
        sweep.version,
        sweep.rounds
    );
    format!(
        "<pre>{}</pre>\n<p class=\"note\">{}</p>\n",
        escaped(&sweep.command),
        escaped(&note)
    )
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::example;
    use super::*;

    #[test]
    fn one_page_that_needs_nothing_else() {
        let page = html(&example());
        assert!(page.contains("testbed sweep -- ./a&lt;b 'x y'"), "{page}");
        for outside in ["<script", "src=", "href=", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside} in {page}");
        }
        for tag in ["svg", "figure", "table", "li", "text", "path"] {
            let opened = page.matches(&format!("<{tag} ")).count()
                + page.matches(&format!("<{tag}>")).count();
            let closed = page.matches(&format!("</{tag}>")).count();
            let beginning = format!("<{tag} ");
            let at_once = page.split(&beginning).skip(1);
            let at_once =
                at_once.filter(|rest| rest.split('>').next().is_some_and(|tag| tag.ends_with('/')));
            assert_eq!(opened, closed + at_once.count(), "{tag}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf\""), "{page}");
    }

    #[test]
    fn a_sweep_that_was_stopped_says_so() {
        let mut sweep = example();
        assert!(!html(&sweep).contains("Stopped before"));
        sweep.complete = false;
        sweep.runs.truncate(1);
        sweep.summarize();
        let page = html(&sweep);
        assert!(
            page.contains("Stopped before") && !page.contains("NaN"),
            "{page}"
        );
    }
}
