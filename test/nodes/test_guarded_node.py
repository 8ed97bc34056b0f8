# SPDX-License-Identifier: Apache-2.0
"""Messages and requests that make rclpy's own callbacks raise."""

import pytest
from builtin_interfaces.msg import Time
from rcl_interfaces.msg import Parameter, ParameterValue
from rcl_interfaces.srv import GetParameters, SetParameters, SetParametersAtomically
from rosgraph_msgs.msg import Clock
from std_srvs.srv import Trigger


def parameter(name, **value):
    return Parameter(name=name, value=ParameterValue(**value))


UNKNOWN_TYPE = parameter("overlay_alpha", type=10)


@pytest.mark.parametrize("kind", [10, 255])
def test_only_the_parameter_of_an_unknown_type_is_refused(bench, kind):
    node = bench.start(autostart=False)
    changes = [
        parameter("overlay_alpha", type=3, double_value=0.25),
        parameter("overlay_alpha", type=kind),
        parameter("max_rate", type=3, double_value=7.0),
    ]
    request = SetParameters.Request(parameters=changes)
    results = bench.call(SetParameters, "set_parameters", request).results
    assert [result.successful for result in results] == [True, False, True]
    assert str(kind) in results[1].reason
    assert node.get_parameter("overlay_alpha").value == 0.25
    assert node.get_parameter("max_rate").value == 7.0


def test_parameters_set_atomically_are_all_refused(bench):
    node = bench.start(autostart=False)
    changes = [parameter("overlay_alpha", type=3, double_value=0.25), UNKNOWN_TYPE]
    request = SetParametersAtomically.Request(parameters=changes)
    result = bench.call(SetParametersAtomically, "set_parameters_atomically", request).result
    assert not result.successful
    assert "10" in result.reason
    assert node.get_parameter("overlay_alpha").value == 0.5


@pytest.mark.parametrize("name", ["", "no_such_parameter", "left.no_such_parameter"])
def test_a_parameter_that_is_not_declared_is_refused(bench, name):
    """rclpy lets the empty name through."""
    node = bench.start(autostart=False)
    request = SetParameters.Request(parameters=[parameter(name, type=1, bool_value=True)])
    (result,) = bench.call(SetParameters, "set_parameters", request).results
    assert not result.successful
    assert not node.has_parameter(name)


@pytest.mark.parametrize("at_start", [True, False])
def test_a_negative_clock_is_ignored_and_the_next_one_is_used(bench, at_start):
    node = bench.start(autostart=False, **({"use_sim_time": True} if at_start else {}))
    if not at_start:
        assert bench.set_parameter("use_sim_time", True).successful
    clock = bench.camera(Clock, "/clock")
    clock.publish(Clock(clock=Time(sec=-1)))
    bench.wait_until(lambda: "/clock: " in bench.log(), "the clock is refused")
    clock.publish(Clock(clock=Time(sec=5)))
    bench.wait_until(lambda: node.get_clock().now().nanoseconds == 5_000_000_000, "5 s")
    assert bench.call(GetParameters, "get_parameters", GetParameters.Request(names=["fit"])).values


@pytest.fixture
def raising(bench):
    """A node with a service and a timer that always raise."""
    node = bench.start(autostart=False)

    def fail(*arguments):
        raise RuntimeError("out of order")

    node.create_service(Trigger, "~/fail", fail)
    node.create_timer(0.01, fail)


def test_a_raising_service_or_timer_does_not_end_the_node(bench, raising):
    for _ in range(2):
        assert not bench.call(Trigger, "fail", Trigger.Request()).success
    log = bench.wait_until(lambda: "fail: " in bench.log() and bench.log(), "a line")
    assert log.count("fail: RuntimeError: out of order") == 1
    assert log.count("timer: RuntimeError: out of order") == 1
