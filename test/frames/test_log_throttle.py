# SPDX-License-Identifier: Apache-2.0
from sfseg_ros.frames.log_throttle import LogThrottle


def test_each_kind_of_message_is_logged_once_per_period():
    now_s = [0.0]
    throttle = LogThrottle(period_s=5.0, clock=lambda: now_s[0])
    admitted_at = {"lost": [], "rejected": []}
    for tenth in range(121):
        now_s[0] = tenth / 10
        for kind, begin_s in (("lost", 0), ("rejected", 3)):
            if now_s[0] >= begin_s and throttle.admits(kind):
                admitted_at[kind].append(now_s[0])
    assert admitted_at == {"lost": [0.0, 5.0, 10.0], "rejected": [3.0, 8.0]}
    throttle.clear()
    assert throttle.admits("lost")
