//! What every backend promises: the same tests for each of them.

// Helpers of tests, too; a directory is kept for its drop.
#![allow(
    clippy::unwrap_used,
    clippy::cloned_ref_to_slice_refs,
    clippy::type_complexity
)]
#![allow(missing_docs, dead_code)]

mod bed;
mod death;
mod hostile;
mod meeting;
mod messages;
mod one_sided;
mod posted;
mod storm;

/// A module a backend, with all of the tests in it.
macro_rules! on_backend {
    ($name:ident, $kind:expr; $($file:ident: $($test:ident),+ $(,)?);+ $(;)?) => {
        mod $name {
            $($(
                #[test]
                fn $test() {
                    if $kind.is_here() {
                        crate::$file::$test($kind);
                    }
                }
            )+)+
        }
    };
}

/// What every backend promises.
macro_rules! on_every_backend {
    ($($tests:tt)+) => {
        on_backend! { shm, crate::bed::Kind::Shm; $($tests)+ }
        on_backend! { tcp, crate::bed::Kind::Tcp; $($tests)+ }
        on_backend! { sim, crate::bed::Kind::Sim; $($tests)+ }
        on_backend! { verbs, crate::bed::Kind::Verbs; $($tests)+ }
    };
}

/// What those promise beside that join processes.
macro_rules! between_processes {
    ($($tests:tt)+) => {
        mod processes {
            on_backend! { shm, crate::bed::Kind::Shm; $($tests)+ }
            on_backend! { tcp, crate::bed::Kind::Tcp; $($tests)+ }
            on_backend! { verbs, crate::bed::Kind::Verbs; $($tests)+ }
        }
    };
}

on_every_backend! {
    one_sided:
        what_is_written_is_read,
        a_batch_moves_all_its_segments,
        a_megabyte_at_once,
        the_bounds_of_a_grant_hold,
        a_read_grant_is_not_for_writing,
        a_revoked_key_is_dead,
        a_key_that_was_never_granted,
        a_key_is_for_its_holder,
        the_keys_of_a_dropped_region_die,
        a_write_arrives_before_the_message_after_it,
        zeroed_memory_reads_as_zeros,
        committed_memory_reads_as_zeros,
        segments_outside_the_buffer_are_refused,
        any_transfers_agree_with_a_model,
        what_was_granted_is_fetched_into_a_region,
        a_region_is_written_by_one_identity_alone;
    posted:
        operations_complete_in_any_order_of_asking,
        blocking_operations_go_between,
        much_is_posted_at_once,
        what_is_refused_is_told_at_completion,
        what_surrounds_a_refused_operation_is_done,
        long_calls_are_posted_at_once,
        what_cannot_be_posted_is_refused_at_once,
        an_answer_that_does_not_come,
        an_emulated_network_overlaps;
    storm:
        signals_interrupt_nothing;
    messages:
        messages_of_every_length,
        a_message_that_is_too_long,
        answers_may_come_from_other_threads,
        no_answer_in_time,
        a_request_that_is_dropped,
        threads_share_a_peer,
        an_emulated_network_takes_its_time;
    meeting:
        the_two_know_each_other,
        another_testbeds_key_is_refused,
        nobody_is_there,
        a_hundred_connections,
        many_short_connections,
        a_peer_comes_and_goes,
        only_the_chosen_backend_is_used,
        an_address_in_use_is_not_taken_over;
}

between_processes! {
    meeting:
        descriptors_go_above_the_floor;
    death:
        a_call_to_a_killed_peer_fails,
        posted_operations_to_a_killed_peer_fail,
        a_one_sided_read_of_a_killed_peer_fails,
        a_peer_reconnects_after_a_restart,
        the_address_of_a_killed_peer_is_free;
    hostile:
        another_version_is_refused_by_name,
        garbage_harms_nobody,
        silence_holds_up_nobody,
        half_a_handshake_harms_nobody;
}
