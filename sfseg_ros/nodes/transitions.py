# SPDX-License-Identifier: Apache-2.0
"""Lifecycle transitions in threads, so that a node answers while it loads a model.

rclpy runs a transition inside the service callback. While a model loads, which takes seconds or
with TensorRT minutes, the node would answer neither parameter services nor `ros2 lifecycle get` and
would publish no diagnostics. Here each transition has a thread; only one runs at a time.
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
"""As requests of `change_state` name them: by label or by number."""
RECOVERY_PAUSE_S = 60.0
"""Give up if the device is lost again within this time of a recovery."""


class _Parameters(dict[str, Parameter]):
    """rclpy's table of parameters, safe to read while another thread adds to it.

    rclpy's services iterate over it in the executor's thread while a transition that creates a
    topic declares `qos_overrides`. A plain dict then raises, which ends the node.
    """

    def keys(self) -> Any:
        return list(super().keys())

    def items(self) -> Any:
        return list(super().items())


class ResponsiveLifecycleNode(LifecycleNodeMixin, GuardedNode):
    """rclpy's LifecycleNode, except that transitions run in threads.

    The response to a transition that the current state does not allow is success = false. With
    rclpy's own handler, the exception ends the process.
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
        # rclpy awaits coroutine callbacks, though its annotation does not allow them.
        self._service_change_state.callback = self._change_state_in_thread  # type: ignore[assignment]

    def in_transition_thread(self, work: Callable[[], object]) -> None:
        """Run `work`, which may trigger transitions, in a thread after those already waiting."""

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
        """Wait for the transitions in progress: a library cannot be stopped while it compiles a
        network."""
        while threads := list(self._transition_threads):  # a transition may start another
            threads[0].join()

    def destroy_node(self) -> None:
        """Destroy the node and its lifecycle services, after it has left its executor.

        rclpy destroys the node but not the state machine that owns these services. They would stay
        on the network until garbage collection, and a client of the next node with this name in the
        process could wait for a service that no longer answers.
        """
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    @property
    def state_label(self) -> str:
        """unconfigured, inactive, active, finalized, or a transition such as configuring."""
        return str(self._state_machine.current_state[1])

    def is_ending(self) -> bool:
        """Whether long-running work should be cancelled because a shutdown, a cleanup or a
        deactivation is pending."""
        ending = self._ends_asked_for or self.state_label in ("deactivating", "shuttingdown")
        return not self.context.ok() or bool(ending)

    def _logged(
        self, callback: Callable[[LifecycleState], TransitionCallbackReturn]
    ) -> Callable[[LifecycleState], TransitionCallbackReturn]:
        """`callback` with its exceptions logged: rclpy turns them into ERROR silently."""

        def run(state: LifecycleState) -> TransitionCallbackReturn:
            try:
                return callback(state)
            except Exception as error:
                name = callback.__name__
                self.log_unless_ending(f"{name}: {one_line(error)}")
                return TransitionCallbackReturn.ERROR

        return run

    def log_unless_ending(self, text: str) -> None:
        """Log an error, unless Ctrl-C has shut the middleware down: then everything fails."""
        if self.context.ok():
            self.get_logger().error(text)

    async def after_transitions(self, answer: Callable[[], T]) -> T:
        """Call `answer` in a transition thread and return its result; for services that take long.
        `answer` must not raise: the client would get no response."""
        done: Future = Future()

        def work() -> None:
            done.set_result(answer())
            if self.executor is not None:
                self.executor.wake()  # makes it look at waiting coroutines again

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
    """Cycles an active node through cleanup and back to active, after it has lost a device such as
    the GPU."""

    def __init__(self, node: ResponsiveLifecycleNode) -> None:
        self._node = node
        self._running = False
        self._ended_s = -math.inf

    def begin(self, reason: str, on_giving_up: Callable[[str], None]) -> None:
        """Start the recovery in a thread, unless one is running.

        Within RECOVERY_PAUSE_S of the last recovery, the node stays unconfigured instead, which a
        lifecycle manager can see, and `on_giving_up` is called with the reason.
        """
        if not self._running:
            self._running = True
            self._node.in_transition_thread(lambda: self._run(reason, on_giving_up))

    def _run(self, reason: str, on_giving_up: Callable[[str], None]) -> None:
        node, again = self._node, time.monotonic() - self._ended_s < RECOVERY_PAUSE_S
        try:
            if node.state_label != "active":
                return  # another client has deactivated the node already
            node.log_unless_ending(f"{reason}; {'giving up' if again else 'reloading the model'}")
            node.trigger_deactivate()
            node.trigger_cleanup()
            if again:
                on_giving_up(f"{reason}; lost again: restart the process, or else the machine")
            elif node.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                node.trigger_activate()
            self._ended_s = time.monotonic()
        finally:
            self._running = False
