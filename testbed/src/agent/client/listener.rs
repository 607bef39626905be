//! What the agent says, and whom it concerns.

use super::program::News;
use super::{Shared, State};
use crate::agent::message::{Message, receive};
use crate::agent::relay::SourceHandle;
use proto::process::ControlReply;
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

/// Reads what the agent says, and gives it to whom it concerns.
pub(super) struct Listener {
    pub(super) shared: Arc<Shared>,
}

impl Listener {
    pub(super) fn listen(&self, reader: &mut dyn Read) {
        let why = loop {
            match receive(reader) {
                Ok(Some(message)) => {
                    if let Err(why) = self.handle(message) {
                        break why;
                    }
                }
                Ok(None) => break "the connection to its agent ended".to_owned(),
                Err(why) => break format!("{why:#}"),
            }
        };
        self.shared.lose(&why);
    }

    fn handle(&self, message: Message) -> Result<(), String> {
        let mut state = self.shared.lock();
        state.heard = Instant::now();
        match message {
            Message::Reply { id, result } => {
                if let Some(call) = state.calls.remove(&id) {
                    let _ = call.send(result);
                }
            }
            Message::Data { id, stream, bytes } => {
                let program = state.programs.get(&id);
                if !program.is_none_or(|program| program.data(stream, bytes)) {
                    return Err("its agent sent more than it may".to_owned());
                }
            }
            Message::Credit { id, bytes, .. } => {
                let input = state.programs.get(&id).and_then(|p| p.input.as_ref());
                input.into_iter().for_each(|input| input.credit(bytes));
            }
            Message::Shut { id, .. } => {
                let input = state.programs.get(&id).and_then(|p| p.input.as_ref());
                input.into_iter().for_each(SourceHandle::shut);
            }
            Message::Program { id, news } => news_of(&mut state, id, news),
            Message::Ready { id, addrs } => {
                if let Some(component) = state.components.get(&id) {
                    component.lock().addrs = Some(addrs);
                    component.ready.set();
                }
            }
            Message::Died { id, how } => {
                if let Some(component) = state.components.get(&id) {
                    component.die(how);
                }
            }
            Message::Alive => {}
            Message::Goodbye => return Err("its agent has ended".to_owned()),
            other => return Err(format!("its agent sent what only testbed sends: {other:?}")),
        }
        Ok(())
    }
}

fn news_of(state: &mut State, id: u32, reply: ControlReply) {
    if matches!(reply, ControlReply::Started { .. }) {
        if let Some(program) = state.programs.get(&id) {
            let sinks = Vec::new();
            let _ = program.news.send(News { reply, sinks });
        }
        return;
    }
    if let Some(program) = state.programs.remove(&id) {
        program.input.iter().for_each(SourceHandle::shut);
        let sinks = program.output.into_iter().chain(program.errors);
        let sinks = sinks.chain(program.trace).collect();
        let _ = program.news.send(News { reply, sinks });
    }
}
