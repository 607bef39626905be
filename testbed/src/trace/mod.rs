//! `testbed trace`: reads what `testbed run --trace` wrote.

mod export;
mod reader;
mod summary;

use crate::cli::TraceArgs;
use crate::ending::Ending;
use crate::out::{show, warn};
use anyhow::{Context, Result};
use reader::Reader;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};

/// Runs it.
pub(crate) fn run(args: &TraceArgs) -> Result<Ending> {
    let name = args.file.display();
    let file = File::open(&args.file).with_context(|| format!("cannot read {name}"))?;
    let context = || format!("{name} is no whole trace of testbed run --trace");
    let mut reader = Reader::new(BufReader::new(file)).with_context(context)?;
    if args.csv {
        export(export::csv, &mut reader)
    } else if args.chrome {
        export(export::chrome, &mut reader)
    } else if args.json && !args.summary {
        export(export::json, &mut reader)
    } else {
        summarize(args, &mut reader)
    }
    .map_err(|why| match why.downcast_ref::<std::io::Error>() {
        // The other end of our output, not the trace.
        Some(_) => why,
        None => why.context(context()),
    })?;
    if let Some(missing) = reader.missing() {
        warn(&format!("{name}: {missing}"));
    }
    Ok(Ending::Exit(0))
}

type Input = Reader<BufReader<File>>;

fn export(
    form: impl Fn(&mut Input, &mut dyn Write) -> Result<()>,
    reader: &mut Input,
) -> Result<()> {
    let mut output = BufWriter::new(std::io::stdout().lock());
    form(reader, &mut output)?;
    Ok(output.flush()?)
}

fn summarize(args: &TraceArgs, reader: &mut Input) -> Result<()> {
    let summary = summary::Summary::of(reader, usize::from(args.top))?;
    let text = if args.json {
        serde_json::to_string_pretty(&summary)? + "\n"
    } else {
        summary.text()
    };
    Ok(show(&text)?)
}
