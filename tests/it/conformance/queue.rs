//! What every queue must do. Cases speak to the ports only; `instance` stands for a process of its own on the same store.

mod claiming;
mod fixture;
mod following;
mod groups;
mod leases;
mod operating;
mod placing;
mod queues;
mod scheduling;
mod submitting;

use claiming::*;
use fixture::{bullmq, embedded};
use following::*;
use groups::*;
use leases::*;
use operating::*;
use placing::*;
use queues::*;
use scheduling::*;
use submitting::*;

conformance! {
    suite queue {
        submitted_job_is_claimed_once,
        jobs_come_by_priority_then_by_submission,
        a_delayed_job_does_not_come_before_it_is_due,
        a_paused_queue_hands_nothing_out_in_any_process,
        a_waiting_claimer_is_woken_by_another_process,
        jobs_that_ask_for_too_many_cores_are_left_to_others,
        concurrency_is_never_exceeded_and_can_change,
        closing_gives_back_what_nobody_took,
        a_retried_or_released_job_keeps_its_place,
        a_job_is_found_without_its_data_by_those_who_need_none,
        dropped_lease_uses_no_attempt,
        a_lease_that_started_nothing_leaves_its_number,
        a_job_that_is_put_off_waits_and_spends_nothing,
        complete_keeps_the_result,
        fail_is_final,
        retry_delays_and_spends_an_attempt,
        retry_without_delay_is_ready_at_once,
        starts_finishes_and_crashes_are_counted_apart,
        a_lapsed_lease_goes_to_another_with_one_crash_more,
        a_lost_lease_fires_loss_and_settles_nothing,
        cancel_reaches_the_holder_in_another_process,
        cancel_reaches_a_job_that_is_just_being_taken,
        cancel_is_signalled_however_soon_the_holder_obeys,
        cancel_survives_the_holder,
        cancel_ends_a_job_that_is_not_running,
        cancel_can_be_repeated,
        a_request_to_stop_ends_with_the_attempt_that_it_stopped,
        a_job_is_not_lost_to_a_cancel_of_the_one_before,
        output_reaches_a_watcher_in_another_process,
        output_is_bounded_and_keeps_the_end,
        progress_is_shown_while_a_job_runs,
        promote_makes_a_delayed_job_ready_now,
        retry_is_only_for_failed_jobs_and_renews_the_budget,
        remove_takes_out_all_but_running_jobs,
        clean_is_bounded_and_takes_the_oldest_first,
        pages_have_no_gap_and_no_repeat_while_jobs_move,
        counts_tell_every_state,
        unknown_jobs_are_told_apart,
        workers_are_listed_until_they_say_farewell,
        a_worker_asked_to_drain_is_told_and_gets_nothing_more,
        a_job_waits_in_the_queue_that_it_names,
        slots_go_to_queues_by_weight,
        in_strict_order_the_first_queue_comes_first,
        of_a_queue_no_more_than_its_share_is_held,
        one_slot_serves_all_queues,
        a_queue_is_paused_alone,
        a_queue_runs_no_more_at_once_than_its_limit,
        a_queue_starts_no_more_in_a_time_than_its_rate,
        however_many_end_at_once_the_limit_of_a_group_holds,
        a_group_goes_on_when_its_worker_hangs,
        a_retried_job_waits_for_the_limit_of_its_group,
        a_job_of_a_limited_group_may_wait_for_a_time_and_for_others,
        a_repeated_submission_changes_nothing_in_a_limited_group,
        queues_are_listed_with_what_they_hold,
        a_list_is_of_one_queue_or_of_all,
        a_queue_is_cleaned_alone,
        jobs_of_several_queues_are_submitted_together,
        a_job_goes_to_a_worker_that_has_what_it_asks_for,
        jobs_for_others_do_not_hold_up_those_behind_them,
        no_more_is_held_than_there_is,
        a_large_job_is_not_starved_by_small_ones,
        a_job_that_no_worker_can_run_is_taken_to_be_refused,
        groups_take_turns_in_a_fair_queue_or_that_is_refused,
        a_group_runs_no_more_at_once_than_its_limit,
        deduplication_without_ttl_holds_until_the_job_has_ended,
        deduplication_with_ttl_holds_until_it_has_passed,
        a_key_is_free_when_its_job_has_left_the_queue,
        a_retried_job_takes_its_key_again_or_waits_for_it,
        a_custom_id_is_taken_once,
        an_idempotent_request_is_answered_again,
        of_two_callers_with_one_key_one_is_new,
        ten_thousand_jobs_are_taken_in_one_call,
        what_was_submitted_comes_back_unchanged,
        a_job_comes_when_those_before_it_have_completed,
        jobs_of_one_call_may_come_after_each_other,
        jobs_that_wait_for_others_are_listed_behind_the_delayed,
        any_number_of_jobs_may_come_after_one,
        a_delay_counts_from_when_nothing_is_waited_for,
        a_job_after_one_that_failed_is_barred,
        a_job_after_one_that_was_cancelled_is_barred,
        a_job_that_waits_for_others_can_be_cancelled_and_removed,
        a_job_that_was_taken_out_is_not_waited_for,
        what_became_of_a_job_is_known_however_soon_it_leaves,
        a_job_after_one_that_was_cancelled_and_removed_is_barred,
        what_a_job_cannot_come_after_is_told,
        a_schedule_brings_one_job_for_each_time,
        a_long_job_does_not_hold_up_its_schedule,
        no_second_job_comes_while_the_first_waits,
        a_schedule_is_replaced_by_one_of_the_same_id,
        a_schedule_comes_back_unchanged,
        a_paused_schedule_brings_nothing_until_it_is_resumed,
        a_removed_schedule_brings_nothing_more,
        a_schedule_goes_on_when_its_waiting_job_is_cancelled,
    } for embedded, bullmq
}
