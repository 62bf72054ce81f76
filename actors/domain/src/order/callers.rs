//! Who waits for the outcome of an order.

use crate::{
    entity::{Answer, Asker, Context},
    logic::Logic,
    refusal::Refusal,
};

/// Most callers that wait for placing one order, and for cancelling it. Each one more is a repetition of the
/// same request.
const CALLERS_MAX: usize = 256;

/// Lets a caller wait with the others. Beyond the limit it is told so, and what it asks is done all the
/// same. Before the third logic version, the one that has waited longest was forgotten instead.
pub(super) fn wait(callers: &mut Vec<Asker>, caller: Asker, ctx: &mut Context<'_>) {
    if ctx.logic >= Logic::V3 && !is_owed_something(callers, &caller) {
        return;
    }
    if callers.len() == CALLERS_MAX {
        if ctx.logic >= Logic::V3 {
            let refusal = Refusal::Overloaded { waiting: CALLERS_MAX as u64 };
            return ctx.answer_to(Asker { answer_row: None, ..caller }, Answer::refused(&refusal, ctx.logic));
        }
        callers.remove(0);
    }
    callers.push(caller);
}

/// Whether a caller listens, or is the first whose answer is to be kept.
fn is_owed_something(callers: &[Asker], caller: &Asker) -> bool {
    let is_first = |row| callers.iter().all(|other| other.answer_row.as_ref() != Some(row));
    caller.reply.is_some() || caller.answer_row.as_ref().is_some_and(is_first)
}
