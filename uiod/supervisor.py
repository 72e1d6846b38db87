# SPDX-License-Identifier: BSD-3-Clause
"""One VM from start to end: QEMU started or adopted, the guest awaited, restarted or stopped, everything cleared away.

uiod may die at any moment and the VM goes on: QEMU is in a session of its own, and what the next uiod needs is in
state.json and in the sockets QEMU listens on. Only an end that is asked for, or QEMU's own, takes the VM down.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from console.seriallog import SerialLog
from uiod import accel, config, confine, placement, qemu, qmp, runtime
from uiod.apitypes import ExecRequest, HelloInfo, VmInfo, VmState
from uiod.errors import ExitStatus, UiodError
from uiod.events import Events, Pulse
from uiod.guest import Guest
from uiod.guestmem import GuestMemory
from uiod.health import Health
from uiod.link import LinkDown
from uiod.notify import notify, watchdog_interval_s
from uiod.paths import RuntimeDir

if TYPE_CHECKING:
    import cgroup

log = logging.getLogger("uiod")

_SOCKETS_S = 30.0  # QEMU's, from its start until it listens
_QUIT_S = 3.0
_BOOT_S = 10.0
_STEADY_S = 60.0  # who has run so long begins anew with the back-off
_SERIAL_PIECE = 64 * 1024


@dataclass
class Ending:
    """How one run of QEMU ended."""

    good: bool
    reason: str
    status: ExitStatus
    exit_status: int | None = None
    early: bool = False  # before the guest could run


class Supervisor:
    """The daemon's heart: the API asks it, it asks the guest and QEMU.

    :param root: the directory of all runtime directories.
    """

    def __init__(self, settings: config.Config, root: Path) -> None:
        self.config = settings
        self.run_dir = RuntimeDir(root / settings.name)
        self.events = Events()
        self.guest = Guest(settings, self.run_dir, self.events)
        self.changed = Pulse()
        self.state: VmState = "starting"
        self.reason = ""
        self.group: cgroup.Group | None = None
        self.serial: SerialLog | None = None
        self.serial_changed = Pulse()
        self.restarts = 0
        self.started = time.time()
        self.monitor: qmp.Monitor | None = None
        self.process: qemu.Process | None = None
        self._root = root
        self._owner = runtime.Ownership(self.run_dir)
        self._accel = accel.Choice("tcg", "not decided yet")
        self._argv: list[str] = []
        self._adopted = False
        self._warnings: list[str] = []
        self._confinement: dict[str, Any] = {"qemu_sandbox": qemu.sandbox(settings)}
        self.health = Health(self)
        self.guest_memory = GuestMemory(self.guest)
        self._resets = 0
        self._exit_status: int | None = None
        self._stopping = trio.Event()
        self._stop_timeout_s = settings.vm.stop_timeout_s
        self._handover = False
        self._shutdown_reason = ""
        self._oom_before = 0
        self._announced = False

    # What the API shows and does

    def info(self) -> VmInfo:
        """GET /v1/vm."""
        hello = self.guest.hello
        return VmInfo(
            name=self.config.name,
            state=self.state,
            ready=hello is not None,
            pid=os.getpid(),
            qemu_pid=self.process.pid if self.process else None,
            accel=self._accel.accel,
            accel_reason=self._accel.reason,
            kernel=str(self.config.vm.kernel),
            symbols=str(self.config.symbols),
            config=str(self.config.file),
            memory_bytes=self.config.vm.memory,
            cpus=self.config.vm.cpus,
            started=self.started,
            cgroup=self.group.path if self.group else None,
            restarts=self.restarts,
            adopted=self._adopted,
            exit_status=self._exit_status,
            reason=self.reason,
            hello=None
            if hello is None
            else HelloInfo(
                kernel=hello.kernel,
                build_id=hello.build_id.hex(),
                features=hello.feature_names(),
                builtins=list(hello.builtins),
                uptime_ns=hello.uptime,
                arena_base=hello.arena_base,
                arena_size=hello.arena_size,
                slide=hello.slide,
            ),
            warnings=self.warnings(),
            argv=self._argv,
            confinement=self._confinement,
        )

    def warnings(self) -> list[str]:
        """What is not as it should be, now."""
        found = [*self._warnings, *self.guest.warnings]
        if self.group is not None:
            found += self.group.warnings
        found += self.health.warnings()
        if self.guest.hello is not None and self.guest.images.kernel is not None:
            mismatch = self.guest.images.mismatch()
            found += [f"no overlays can be linked: {mismatch}"] if mismatch else []
        return found

    def stop(self, timeout_s: float | None = None) -> None:
        """Stop the VM, gracefully within the timeout, and end."""
        if timeout_s is not None:
            self._stop_timeout_s = timeout_s
        self._stopping.set()

    def kill(self) -> None:
        """Kill QEMU at once, and end."""
        self.stop(0)
        if self.process is not None:
            self.process.signal(signal.SIGKILL)

    async def pause(self) -> None:
        """Stop the virtual CPUs. :raise UiodError: QEMU refuses or does not answer."""
        await self._monitor().execute("stop")
        self.set_state(state="paused")

    async def resume(self) -> None:
        """Let them run. :raise UiodError: QEMU refuses or does not answer."""
        await self._monitor().execute("cont")
        self.set_state(state="running")

    async def reset(self) -> None:
        """Reset the machine, and see it boot. :raise UiodError: QEMU refuses or does not answer."""
        monitor, before = self._monitor(), self._resets
        await monitor.reset()
        # The firmware resets the machine once more on its way, which must not be its end.
        with trio.move_on_after(_BOOT_S):
            while self._resets == before or self.guest.hello is None:
                await self.changed.wait()
        await monitor.reset_is_the_end()

    def _monitor(self) -> qmp.Monitor:
        if self.monitor is None:
            raise UiodError(f"the VM is {self.state}", status=ExitStatus.QEMU)
        return self.monitor

    async def until(self, ready: bool) -> None:
        """Until the guest is ready, or the VM has ended."""
        while (
            not (self.guest.hello is not None and self.state == "running")
            if ready
            else (self.state not in ("stopped", "crashed"))
        ):
            await self.changed.wait()

    def set_state(self, state: VmState, reason: str = "") -> None:
        """Another state, told to who waits for it."""
        if state != self.state:
            self.events.add(f"vm.{state}", **({"reason": reason} if reason else {}))
        self.state, self.reason = state, reason
        self.guest.link.paused = state == "paused"
        self.changed.fire()

    def warn(self, text: str) -> None:
        """A warning for `inspect`, once."""
        if text not in self._warnings:
            self._warnings.append(text)
            log.warning("%s", text)

    # The whole life

    async def run(self, serve: Any) -> ExitStatus:
        """Start or adopt the VM and stay until it has ended.

        :param serve: `api.serve`: opens the API's socket and serves it until it is cancelled.
        :raise UiodError: it could not be started. Nothing is left of it then.
        """
        placement.check_files(self.config)
        placement.check_sockets(self.run_dir)
        self._owner.acquire()
        try:
            status = await self._owned(serve)
        except BaseException:
            # A mistake of ours, or a start that failed: a VM that runs is left to the next uiod.
            if self.process is None:
                self._clear()
                self._owner.release()
            else:
                self._owner.abandon()
            raise
        if self._handover:
            self._owner.abandon()
        else:
            self._clear()
            self._owner.release()
        return status

    async def _owned(self, serve: Any) -> ExitStatus:
        self.guest.prepare()
        found = runtime.find_running(self.run_dir)
        if found is None:
            self._owner.clear()
        self.run_dir.last.unlink(missing_ok=True)
        self.serial = self._open_log()
        try:
            self.group = placement.join_group(self.config, found[1] if found else None, self.warn)
            if found is None:
                # In this thread and before anything is served: one made for it would be less confined than the others.
                vm = self.config.vm
                self._accel = accel.choose(vm.accel, vm.qemu, self._root / ".accel.json")
                self.events.add("accel", accel=self._accel.accel, reason=self._accel.reason)
            self._confine()
            return await self._served(serve, found)
        finally:
            self.serial.close()

    async def _served(
        self, serve: Any, found: tuple[qemu.Process, runtime.SavedState | None] | None
    ) -> ExitStatus:
        status = ExitStatus.INTERNAL
        failure: UiodError | None = None
        async with trio.open_nursery() as nursery:
            try:
                await nursery.start(self._signals)
                await nursery.start(serve, self)
                nursery.start_soon(self._watchdog)
                nursery.start_soon(self._announce)
                if self.group is not None:
                    nursery.start_soon(self.health.memory, self.group)
                status = await self._lives(found)
            except UiodError as error:  # not from here as a group of one
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return status

    def _confine(self) -> None:
        settings = self.config
        if settings.uio.confine == "off":
            self._confinement["off"] = '[uio] confine = "off"'
            return
        force, missing = confine.apply(
            self._reachable(self.config),
            net_admin=any(net.kind == "tap" for net in settings.net),
            helper=any(net.kind == "bridge" for net in settings.net),
        )
        self._confinement |= force
        if missing:
            self._confinement["missing"] = missing
            if settings.uio.confine == "require":
                raise UiodError(
                    f'[uio] confine = "require", but not in force: {"; ".join(missing)}',
                    status=ExitStatus.UNAVAILABLE,
                )

    def _reachable(self, settings: config.Config) -> confine.Files:
        return placement.reachable(settings, self.run_dir, self._root, self.group)

    def _open_log(self) -> SerialLog:
        try:
            return SerialLog(self.run_dir.serial_log, self.config.uio.log_bytes)
        except OSError as error:
            raise UiodError(
                f"{self.run_dir.serial_log}: {error.strerror}", status=ExitStatus.UNAVAILABLE
            ) from None

    def _clear(self) -> None:
        self._owner.clear()
        if self.group is not None:
            from cgroup import CgroupError  # noqa: PLC0415 - without a group never needed

            with contextlib.suppress(CgroupError):
                self.group.delete()
            self.group = None

    # One run of QEMU after the other

    async def _lives(
        self, found: tuple[qemu.Process, runtime.SavedState | None] | None
    ) -> ExitStatus:
        delay = self.config.restart.delay_s
        tries = 0
        while True:
            begun = trio.current_time()
            ending = await self._life(found)
            found = None
            if self._handover:
                return ExitStatus.OK
            self._exit_status = ending.exit_status
            if self._stopping.is_set():
                self._end("stopped", "asked to stop")
                return ExitStatus.OK
            if trio.current_time() - begun > _STEADY_S:
                delay, tries = self.config.restart.delay_s, 0
            policy = self.config.restart
            again = policy.policy == "always" or (policy.policy == "on-failure" and not ending.good)
            if ending.early and self.restarts == 0:
                again = False  # what does not even start is a mistake, not bad luck
            if not again or (policy.max_tries and tries >= policy.max_tries):
                self._end("stopped" if ending.good else "crashed", ending.reason)
                if ending.good:
                    return ExitStatus.OK
                raise UiodError(ending.reason, status=ending.status)
            tries += 1
            self.set_state("crashed", f"{ending.reason}; the next try is in {delay:.0f} s")
            with trio.move_on_after(delay):
                await self._stopping.wait()
                self._end("stopped", "asked to stop")
                return ExitStatus.OK
            delay = min(2 * delay, policy.max_delay_s)
            self.restarts += 1
            self.events.add("vm.restart", number=self.restarts, reason=ending.reason)

    def _end(self, state: VmState, reason: str) -> None:
        self.set_state(state, reason)
        with contextlib.suppress(OSError):
            runtime.write_atomically(self.run_dir.last, msgspec.json.encode(self.info()))

    async def _life(self, found: tuple[qemu.Process, runtime.SavedState | None] | None) -> Ending:
        """QEMU from its start, or from now if it is there already, to its end."""
        self._shutdown_reason = ""
        self._oom_before = self._oom_kills()
        self.health.begin()
        self.set_state("starting")
        if found is None:
            await self._spawn()
        else:
            self._adopt(*found)
        process = self.process
        assert process is not None
        early = True
        status: int | None = None
        ending: Ending | None = None
        try:
            async with trio.open_nursery() as nursery:
                ended = trio.Event()

                async def watch() -> None:
                    nonlocal status
                    status = await process.wait()
                    ended.set()
                    # What QEMU said last is still on its way: the serial port's reader ends by itself.
                    with trio.move_on_after(1.0):
                        await self._serial_done.wait()
                    nursery.cancel_scope.cancel()

                self._serial_done = trio.Event()
                self._serial_connected = trio.Event()
                nursery.start_soon(watch)
                await self._await_sockets(process, ended)
                nursery.start_soon(self._log_serial, found is not None)
                async with qmp.connect(self.run_dir.qmp, self._on_qmp) as self.monitor:
                    nursery.start_soon(self.guest.run)
                    await self._run_guest()
                    early = False
                    nursery.start_soon(self.health.heartbeat, ended)
                    ending = await self._until_end(ended)
                    if self._handover:
                        nursery.cancel_scope.cancel()
                    await trio.sleep_forever()
        except* qmp.MonitorError as group:
            # QEMU ended under our hands, which `watch` has seen or will see, or it hangs.
            if not await self._ended_soon(process):
                ending = Ending(False, str(_first(group)), ExitStatus.QEMU)
                await self._kill(process)
        finally:
            self.monitor = None
        if self._handover:
            return Ending(True, "handed over", ExitStatus.OK)
        if status is None and process.child is not None:
            status = process.child.poll()
        ending = ending or self._judge(status, early)
        ending.exit_status = status
        self._forget()
        return ending

    def _judge(self, status: int | None, early: bool) -> Ending:
        """Why QEMU ended by itself."""
        said = qemu.complaint(self.run_dir.qemu_log)
        how = "ended"
        if status is not None:
            how = (
                f"ended with status {status}"
                if status >= 0
                else f"was killed by {_signal_name(-status)}"
            )
        if early:
            text = f"QEMU {how} before the guest ran" + (f": {said}" if said else "")
            return Ending(False, text, ExitStatus.QEMU, early=True)
        if self._shutdown_reason == "guest-shutdown" and not status:
            return Ending(True, "the guest powered off", ExitStatus.OK)
        if self._shutdown_reason:
            text = {
                "guest-reset": "the guest reset itself",
                "guest-panic": "the guest panicked",
                "host-qmp-quit": "somebody told QEMU to quit",
                "host-signal": "somebody sent QEMU a signal",
            }.get(self._shutdown_reason, f"the VM was shut down ({self._shutdown_reason})")
            return Ending(False, text, ExitStatus.CRASHED)
        text = f"QEMU {how}"
        if self._oom_kills() > self._oom_before and status == -signal.SIGKILL:
            text = (
                "QEMU was killed because the VM's cgroup ran out of memory; raise [limits] memory"
            )
        return Ending(False, text + (f": {said}" if said else ""), ExitStatus.CRASHED)

    def _oom_kills(self) -> int:
        from cgroup import CgroupError  # noqa: PLC0415 - without a group never needed

        try:
            return self.group.oom_kills() if self.group is not None else 0
        except (CgroupError, OSError):
            return 0

    async def _spawn(self) -> None:
        self._owner.clear_machine()
        self._argv = qemu.command_line(self.config, self.run_dir, self._accel.accel)
        self.started = time.time()
        with placement.first_to_be_killed():
            self.process = qemu.Process.spawn(self._argv, self.run_dir.qemu_log)
        self._adopted = False
        runtime.save_state(
            self.run_dir,
            runtime.SavedState(
                pid=self.process.pid,
                started_ticks=self.process.started,
                started=self.started,
                argv=self._argv,
                accel=self._accel.accel,
                accel_reason=self._accel.reason,
                config=str(self.config.file),
                cgroup=self.group.path if self.group else None,
                restarts=self.restarts,
            ),
        )

    def _adopt(self, process: qemu.Process, saved: runtime.SavedState | None) -> None:
        self.process = process
        self._adopted = True
        if saved is not None:
            self.started, self._argv, self.restarts = saved.started, saved.argv, saved.restarts
            self._accel = accel.Choice(saved.accel, saved.accel_reason)
            wanted = qemu.command_line(self.config, self.run_dir, saved.accel)
            if wanted != saved.argv:
                self.warn(
                    "the configuration has changed since the VM started: restart it to apply the changes"
                )
        self.events.add("vm.adopted", qemu_pid=process.pid)

    def _forget(self) -> None:
        if self.process is not None:
            self.process.close()
            self.process = None
        self._owner.clear_machine()

    async def _await_sockets(self, process: qemu.Process, ended: trio.Event) -> None:
        deadline = trio.current_time() + _SOCKETS_S
        while not all(self.run_dir.port(name).exists() for name in qemu.SOCKETS):
            if ended.is_set():
                await trio.sleep_forever()  # `watch` cancels
            if trio.current_time() > deadline:
                raise qmp.MonitorError(f"QEMU did not open its sockets within {_SOCKETS_S:.0f} s")
            await trio.sleep(0.005)
        del process

    async def _run_guest(self) -> None:
        """Everything is connected: let the guest run, or see what an adopted one does."""
        monitor = self._monitor()
        status = await monitor.status()
        if status == "prelaunch":
            await self._serial_connected.wait()
            await monitor.execute("cont")
            status = "running"
        self.set_state("paused" if status == "paused" else "running")

    async def _until_end(self, ended: trio.Event) -> Ending | None:
        """Until the VM is to end, and then end it. None: QEMU ended by itself."""
        ready_s = self.config.vm.ready_timeout_s or math.inf
        with trio.move_on_after(ready_s) as waiting:
            async with trio.open_nursery() as nursery:

                async def first(wait: Any) -> None:
                    await wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(first, self._stopping.wait)
                nursery.start_soon(first, self._until_ready)
        if waiting.cancelled_caught and self.state != "paused":
            assert self.process is not None
            reason = (
                f"the guest did not say HELLO within {ready_s:.0f} s; "
                f"see `uioctl logs {self.config.name}`, and whether the kernel contains libuio"
            )
            self.events.add("vm.not-ready", reason=reason)
            await self._kill(self.process)
            return Ending(False, reason, ExitStatus.NOT_READY)
        await self._stopping.wait()
        if not self._handover:
            await self._stop(ended)
        return None

    async def _until_ready(self) -> None:
        while self.guest.hello is None:
            await self.guest.link.changed.wait()
        self._announced_ready()
        self.changed.fire()

    def _announced_ready(self) -> None:
        if not self._announced:
            self._announced = True
            notify(READY=1, STATUS=f"{self.config.name}: ready", MAINPID=os.getpid())
            log.info("%s is ready", self.config.name)

    async def _announce(self) -> None:
        """Tell who waits whenever the guest becomes ready or unready."""
        while True:
            await self.guest.link.changed.wait()
            self.changed.fire()

    # Stopping

    async def _stop(self, ended: trio.Event) -> None:
        """The guest first, then QEMU's monitor, then SIGKILL, each with its deadline."""
        assert self.process is not None
        paused = self.state == "paused"
        self.set_state("stopping")
        notify(STOPPING=1)
        if self._stop_timeout_s > 0 and not paused:
            with trio.move_on_after(self._stop_timeout_s):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._ask_guest)
                    await ended.wait()
                    nursery.cancel_scope.cancel()
        if not ended.is_set():
            with trio.move_on_after(_QUIT_S), contextlib.suppress(UiodError):
                await self._monitor().execute("quit")
                await ended.wait()
        if not ended.is_set():
            await self._kill(self.process)

    async def _ask_guest(self) -> None:
        """The application gets SIGTERM; a guest without that gets the power button."""
        hello = self.guest.hello
        if hello is not None and "kill" in hello.builtins:
            with contextlib.suppress(LinkDown, ValueError):
                async with self.guest.exec(ExecRequest(argv=["kill", "-TERM"])) as execution:
                    while isinstance(got := await execution.receive(), tuple):
                        execution.passed_on(got[0], len(got[1]))
        with contextlib.suppress(UiodError):
            await self._monitor().execute("system_powerdown")

    async def _kill(self, process: qemu.Process) -> None:
        process.signal(signal.SIGKILL)
        with trio.move_on_after(_QUIT_S):
            await process.wait()

    async def _ended_soon(self, process: qemu.Process) -> bool:
        with trio.move_on_after(1.0):
            await process.wait()
            return True
        return False

    # What happens meanwhile

    _serial_done: trio.Event
    _serial_connected: trio.Event

    async def _log_serial(self, adopted: bool) -> None:
        assert self.serial is not None
        if adopted:
            self.serial.note("what the guest printed while uiod was not running is missing here")
        try:
            stream = await trio.open_unix_socket(self.run_dir.port("serial"))
            self._serial_connected.set()
            async with stream:
                while data := await stream.receive_some(_SERIAL_PIECE):
                    self.serial.write(data)
                    self.serial_changed.fire()
        except (OSError, trio.BrokenResourceError) as error:
            log.warning("serial port: %s", error)
        finally:
            self._serial_connected.set()
            self._serial_done.set()

    def _on_qmp(self, event: str, data: dict[str, Any]) -> None:
        self.events.add(f"qmp.{event}", **data)
        if event == "SHUTDOWN":
            self._shutdown_reason = str(data.get("reason", "unknown"))
        elif event == "RESET" and data.get("reason") != "host-qmp-quit":
            self._resets += 1
            self.guest.guest_was_reset()
            self.changed.fire()
        elif event == "STOP" and self.state == "running":
            self.set_state("paused", "paused through QEMU's monitor")
        elif event == "RESUME" and self.state == "paused":
            self.set_state("running")

    async def _watchdog(self) -> None:
        interval = watchdog_interval_s()
        while interval is not None:
            notify(WATCHDOG=1)
            await trio.sleep(interval)

    async def _signals(self, task_status: trio.TaskStatus[None]) -> None:
        wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
        with trio.open_signal_receiver(*wanted) as received:
            task_status.started()
            async for number in received:
                if number == signal.SIGHUP:
                    self._reload()
                elif number == signal.SIGUSR1:
                    self._handover = True
                    self._stopping.set()
                elif self._stopping.is_set():
                    self.kill()  # asked twice
                else:
                    self.stop()

    def _reload(self) -> None:
        """SIGHUP: take over what can change live; a configuration with mistakes changes nothing."""
        notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)
        try:
            new = config.load(self.config.file)
            if new.name != self.config.name:
                raise UiodError("the name cannot change while the VM runs")  # noqa: TRY301
            self.guest.reload(new)
        except UiodError as error:
            self.events.add("config.refused", reason=str(error))
        else:
            before = set(self._reachable(self.config).readable)
            self.config = new
            landlocked = "landlock_version" in self._confinement
            if landlocked and set(self._reachable(new).readable) - before:
                self.warn(
                    "files that the configuration names now are out of uiod's reach until it is restarted"
                )
            if self.group is not None and (refused := placement.set_limits(self.group, new)):
                self.events.add("config.refused", reason=refused)
            if qemu.command_line(new, self.run_dir, self._accel.accel) != self._argv:
                self.warn(
                    "the configuration has changed since the VM started: restart it to apply the changes"
                )
            self.events.add("config.reloaded")
        notify(READY=1)


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
