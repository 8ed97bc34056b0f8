# SPDX-License-Identifier: Apache-2.0
"""Lifecycle transitions beside the executor, so that a loading model does not make a node deaf.

rclpy runs a transition inside the service callback: as long as a model loads (seconds, with
TensorRT minutes) no parameter, no `ros2 lifecycle get` and no diagnostics would be answered. Here
each transition has a thread of its own for its duration; only one runs at a time.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.task import Future

from sfseg_ros.errors import one_line
from sfseg_ros.nodes.guarded_node import GuardedNode

T = TypeVar("T")

ENDING_TRANSITIONS = (
    *("deactivate", "cleanup", "shutdown"),
    Transition.TRANSITION_DEACTIVATE,
    Transition.TRANSITION_CLEANUP,
    Transition.TRANSITION_UNCONFIGURED_SHUTDOWN,
    Transition.TRANSITION_INACTIVE_SHUTDOWN,
    Transition.TRANSITION_ACTIVE_SHUTDOWN,
)
"""As `change_state` is asked for them: by label, or by number."""
RECOVERY_PAUSE_S = 60.0
"""What is lost again this soon after everything was loaded anew is not tried once more."""


class _Parameters(dict[str, Parameter]):
    """rclpy's table of parameters, which its services read in the executor's thread while another,
    making a topic, declares its `qos_overrides`. A plain dict then raises, which ends the node."""

    def keys(self) -> Any:
        return list(super().keys())

    def items(self) -> Any:
        return list(super().items())


class ResponsiveLifecycleNode(LifecycleNodeMixin, GuardedNode):
    """rclpy's LifecycleNode, except that transitions run in a thread.

    A request for a transition that the current state does not allow is answered with
    success = false; rclpy's own handler lets the exception end the whole process.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        GuardedNode.__init__(self, name, **kwargs)
        self._parameters = _Parameters(self._parameters)
        # Reentrant: `get_state` must be answered while `change_state` waits for its thread.
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        self._one_transition = threading.Lock()
        self._transition_threads: set[threading.Thread] = set()
        self._ends_asked_for: list[ChangeState.Request] = []
        self._callbacks = {state: self._logged(run) for state, run in self._callbacks.items()}
        self._change_state_now = self._service_change_state.callback
        # rclpy awaits a callback that is a coroutine; its annotation does not say so.
        self._service_change_state.callback = self._change_state_in_thread  # type: ignore[assignment]

    def in_transition_thread(self, work: Callable[[], object]) -> None:
        """Run `work`, which triggers transitions, in a thread, when it is its turn."""

        def run() -> None:
            try:
                with self._one_transition:
                    work()
            except Exception as error:
                self.log_unless_ending(f"transition: {one_line(error)}")
            finally:
                self._transition_threads.discard(threading.current_thread())

        thread = threading.Thread(target=run, name="sfseg_transition")
        self._transition_threads.add(thread)
        thread.start()

    def join_transitions(self) -> None:
        """Wait for the transitions that are under way; a library cannot be stopped in the middle
        of compiling a network."""
        while threads := list(self._transition_threads):  # one may have begun another
            threads[0].join()

    def destroy_node(self) -> None:
        """Destroy the node with its lifecycle services, after it has left its executor.

        rclpy destroys the node but not the state machine that owns those services. They would
        stay on the network until the garbage collector comes by, and a client of the next node
        with this name in the process would wait for one that answers no more.
        """
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    @property
    def state_label(self) -> str:
        """unconfigured, inactive, active, finalized, or configuring and so on in between."""
        return str(self._state_machine.current_state[1])

    def is_ending(self) -> bool:
        """Whether what takes minutes is to be given up: somebody waits for the end, maybe for its
        turn behind just that."""
        ending = self._ends_asked_for or self.state_label in ("deactivating", "shuttingdown")
        return not self.context.ok() or bool(ending)

    def _logged(
        self, callback: Callable[[LifecycleState], TransitionCallbackReturn]
    ) -> Callable[[LifecycleState], TransitionCallbackReturn]:
        """`callback`, saying what it raised: rclpy turns exceptions into ERROR without a word."""

        def run(state: LifecycleState) -> TransitionCallbackReturn:
            try:
                return callback(state)
            except Exception as error:
                name = callback.__name__
                self.log_unless_ending(f"{name}: {one_line(error)}")
                return TransitionCallbackReturn.ERROR

        return run

    def log_unless_ending(self, text: str) -> None:
        """After Ctrl-C the middleware is gone below what runs, and everything fails."""
        if self.context.ok():
            self.get_logger().error(text)

    async def after_transitions(self, answer: Callable[[], T]) -> T:
        """What `answer` returns, called in a transition thread when it is its turn; for services
        that take long. `answer` must not raise: nobody would be answered."""
        done: Future = Future()

        def work() -> None:
            done.set_result(answer())
            if self.executor is not None:
                self.executor.wake()  # only then it looks again at a coroutine that waits

        self.in_transition_thread(work)
        result: T = await done
        return result

    async def _change_state_in_thread(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        wish = request.transition.label or request.transition.id
        ends = wish in ENDING_TRANSITIONS

        def change() -> ChangeState.Response:
            try:
                self._change_state_now(request, response)
            except Exception as error:  # RCLError: not allowed in this state
                response.success = False
                self.get_logger().warning(
                    f"transition {wish} refused in state {self.state_label}: {one_line(error)}"
                )
            finally:
                if ends:
                    self._ends_asked_for.remove(request)
            return response

        if ends:
            self._ends_asked_for.append(request)
        return await self.after_transitions(change)


class Recovery:
    """The way from active through cleanup to active again, after something below the node was
    lost, such as its GPU."""

    def __init__(self, node: ResponsiveLifecycleNode) -> None:
        self._node = node
        self._running = False
        self._ended_s = -math.inf

    def begin(self, reason: str, on_giving_up: Callable[[str], None]) -> None:
        """In a thread, once for all frames that fail meanwhile. Soon after the last time the node
        stays unconfigured, where a lifecycle manager and people see it, and `on_giving_up` gets
        what to say."""
        if not self._running:
            self._running = True
            self._node.in_transition_thread(lambda: self._run(reason, on_giving_up))

    def _run(self, reason: str, on_giving_up: Callable[[str], None]) -> None:
        node, again = self._node, time.monotonic() - self._ended_s < RECOVERY_PAUSE_S
        try:
            if node.state_label != "active":
                return  # somebody else has taken it down meanwhile: nothing was loaded anew
            node.log_unless_ending(
                f"{reason}; {'giving up' if again else 'loading the model anew'}"
            )
            node.trigger_deactivate()
            node.trigger_cleanup()
            if again:
                on_giving_up(f"{reason}; lost again: restart the process, then the machine")
            elif node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                node.trigger_activate()
            self._ended_s = time.monotonic()
        finally:
            self._running = False
