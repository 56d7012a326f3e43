"""The line in front of the device: how many may wait, in all and from one visitor.

Gradio's own limit counts every event and refuses cheap ones (cancel, status) too when the line is full.
"""

from __future__ import annotations

from typing import Any

import gradio as gr
from gradio import route_utils
from gradio.queueing import Event, Queue
from gradio.server_messages import ProcessCompletedMessage

from app.web.tab import DEVICE

__all__ = ["PER_VISITOR", "WaitingLine", "page_event"]

PER_VISITOR = 4
"""Jobs of one visitor that may wait."""


class WaitingLine(Queue):
    """A queue that limits work for the device only."""

    longest = 32
    """Jobs that may wait in all."""

    @classmethod
    def install(cls, demo: gr.Blocks, longest: int) -> WaitingLine:
        """Replace the queue that `demo.queue()` has just made; gives it back."""
        old = demo._queue
        line = cls(
            live_updates=old.live_updates,
            concurrency_count=old.max_thread_count,
            update_intervals=old.update_intervals,
            max_size=None,
            blocks=demo,
            default_concurrency_limit=old.default_concurrency_limit,
        )
        line.longest = longest
        demo._queue = line
        return line

    async def push(self, body: Any, request: Any, username: str | None) -> Any:
        """Take an event in, or refuse it with a message."""
        if body.fn_index is not None:
            fn = route_utils.get_fn(self.blocks, None, body)
            if fn.concurrency_id == DEVICE["concurrency_id"]:
                waiting = self.sessions_waiting()
                if len(waiting) >= self.longest:
                    return False, f"The queue is full: {len(waiting)} jobs are waiting. Try again soon.", "queue_full"
                if waiting.count(body.session_hash) >= PER_VISITOR:
                    return False, f"You have {PER_VISITOR} jobs waiting already. Let one finish first.", "queue_full"
        return await super().push(body, request, username)

    def sessions_waiting(self) -> list[str]:
        """The session of every job that waits for the device, in order."""
        line = self.event_queue_per_concurrency_id.get(DEVICE["concurrency_id"])
        return [event.session_hash for event in line.queue] if line else []

    async def withdraw(self, session: str, name: str | None = None) -> int:
        """Take the waiting jobs of one session (those of one endpoint, or all) out of the line; says how many.

        The page's own events end quietly, programs get an error that says so.
        """
        line = self.event_queue_per_concurrency_id.get(DEVICE["concurrency_id"])
        if line is None:
            return 0
        async with self.delete_lock:
            mine = [job for job in line.queue if job.session_hash == session and _is(job, name)]
            for job in mine:
                line.queue.remove(job)
                self.event_ids_to_events.pop(job._id, None)
        for job in mine:
            self.send_message(job, _ending(job))
        if mine:
            self.broadcast_estimations(DEVICE["concurrency_id"])
        return len(mine)

    def compute_analytics_summary(self, records: Any) -> dict[str, Any]:
        """Nothing: the page gathers no statistics about visitors, and Gradio would do it after every event."""
        return self.cached_event_analytics_summary


def page_event(task: str) -> dict[str, Any]:
    """Arguments of the event with which the page itself starts the work of a tab; `withdraw` knows it by its name."""
    return {**DEVICE, "api_name": f"page_{task}", "api_visibility": "private", "show_progress": "hidden"}


def _is(job: Event, name: str | None) -> bool:
    """Whether a job belongs to an endpoint; Gradio numbers events of one name."""
    return name is None or str(job.fn.api_name).startswith(name)


def _ending(job: Event) -> ProcessCompletedMessage:
    if job.fn.api_visibility == "private":
        nothing_changes = [{"__type__": "update"} for _ in job.fn.outputs]
        return ProcessCompletedMessage(output={"data": nothing_changes, "is_generating": False}, success=True)
    said = {"error": "The run was cancelled.", "title": "Cancelled", "visible": True, "duration": 10}
    return ProcessCompletedMessage(output=said, success=False)
