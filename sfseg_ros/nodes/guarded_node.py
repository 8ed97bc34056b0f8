# SPDX-License-Identifier: Apache-2.0
"""A node that survives every message and every request.

In rclpy, an exception in a callback ends the process. Its own callbacks raise too: for a parameter
of an unknown type, and for a negative time on /clock.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.exceptions import InvalidHandle
from rclpy.node import Node

from sfseg_ros.errors import one_line
from sfseg_ros.frames.log_throttle import LogThrottle


class GuardedNode(Node):
    """rclpy's Node, except that an exception in a callback affects one message, request or tick.

    The exception is logged in one line, at most once in a while per topic and service.
    """

    def __init__(self, name: str, **kwargs: Any) -> None:
        self._failures = LogThrottle()
        super().__init__(name, **kwargs)

    def create_subscription(
        self, msg_type: Any, topic: str, callback: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As Node.create_subscription; rclpy also uses it for /clock."""
        guarded = self._guarded(callback, topic)
        return super().create_subscription(msg_type, topic, guarded, *args, **kwargs)

    def create_timer(
        self, timer_period_sec: float, callback: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As Node.create_timer."""
        guarded = self._guarded(callback, "timer")
        return super().create_timer(timer_period_sec, guarded, *args, **kwargs)

    def create_service(
        self, srv_type: Any, srv_name: str, callback: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """As Node.create_service; rclpy also uses it for its parameter services.

        A coroutine must handle its own exceptions.
        """
        if srv_type is SetParameters:
            callback = _one_by_one(callback)
        if not inspect.iscoroutinefunction(callback):
            callback = self._guarded(callback, srv_name, _refusal)
        return super().create_service(srv_type, srv_name, callback, *args, **kwargs)

    def _guarded(
        self,
        callback: Callable[..., Any],
        name: str,
        instead: Callable[[Exception, Any], Any] = lambda error, message: None,
    ) -> Callable[..., Any]:
        """`callback`, except that it returns `instead(error, last argument)` if it raises."""

        @functools.wraps(callback)  # rclpy counts the parameters
        def run(*arguments: Any) -> Any:
            try:
                return callback(*arguments)
            except InvalidHandle:
                raise  # a transition destroyed what the executor listed: `middleware.spin`
            except Exception as error:
                if self.context.ok() and self._failures.admits(name):
                    self.get_logger().error(f"{name}: {one_line(error)}")
                return instead(error, arguments[-1] if arguments else None)

        return run


def _one_by_one(callback: Callable[..., Any]) -> Callable[..., Any]:
    """rclpy's `set_parameters`, except that a parameter that raises is refused and the others are
    set; the response has a result for each."""

    def run(request: SetParameters.Request, response: Any) -> Any:
        for parameter in request.parameters:
            one = SetParameters.Request(parameters=[parameter])
            try:
                response.results.extend(callback(one, SetParameters.Response()).results)
            except Exception as error:
                response.results.append(_failed(error))
        return response

    return run


def _refusal(error: Exception, response: Any) -> Any:
    """The response of a service whose callback raised."""
    if isinstance(response, SetParametersAtomically.Response):
        response.result = _failed(error)
    return response


def _failed(error: Exception) -> SetParametersResult:
    return SetParametersResult(successful=False, reason=one_line(error))
