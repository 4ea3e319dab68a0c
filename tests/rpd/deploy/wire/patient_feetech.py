"""``rpd --import`` of this file: LeRobot waits longer for a packet of a motor, as on a busy machine."""

from lerobot.motors.feetech import feetech

PACKET_TIMEOUT = 100.0  # ms; LeRobot's is 50. A stop that asks twice has to return within 300 ms


def wait(this, packet_length):
    this.packet_start_time, this.packet_timeout = this.getCurrentTime(), PACKET_TIMEOUT


feetech.patch_setPacketTimeout = wait
