"""Bugs about models that live in a server others use, too; see `mutants.py`."""

from __future__ import annotations

from collections.abc import Sequence

from .mutants import Mutant

SERVED_MUTANTS: Sequence[Mutant] = (
    Mutant(
        "what_was_mended_cools_down_on",
        "a server is back, and its models are refused for minutes",
        "core",
        "                self._state.known[event.target].forgive()  # who",
        "                pass  # who",
    ),
    Mutant(
        "what_was_found_keeps_the_last_epoch",
        "a late report of our own last load ends the books of what somebody else has loaded",
        "core",
        "            known.epoch += 1\n            resident = Resident(event.target",
        "            resident = Resident(event.target",
    ),
    Mutant(
        "what_was_found_is_not_granted",
        "clients wait for a model that is in memory",
        "core",
        "            self._state.enter(resident)\n            self._ready(resident, now_s, out)\n",
        "            self._state.enter(resident)\n            resident.phase, resident.ready_s = Phase.READY, now_s\n"
        "            self._settle(now_s, out)\n",
    ),
    Mutant(
        "what_was_found_beyond_the_budget_is_not_counted",
        "an engine is started into memory that somebody else's model has taken already",
        "core",
        "if resident is None:  # 1",
        "if resident is None and not self._state.room().fits_now(event.footprint):\n            return\n"
        "        if resident is None:  # 1",
    ),
    Mutant(
        "models_are_taken_over_at_the_end",
        "a shutdown that never ends, since others go on loading",
        "core",
        "known.epoch != event.epoch or self._state.closing:",
        "known.epoch != event.epoch:",
    ),
    Mutant(
        "a_late_sighting_is_believed",
        "the answer to a question of long ago sets the size of the present load",
        "core",
        "if known is None or known.epoch != event.epoch or",
        "if known is None or",
    ),
    Mutant(
        "a_sighting_sizes_what_is_loading",
        "a server shows a model while it loads, half of it: the rest of its room is given to another",
        "core",
        "elif resident.phase is Phase.READY or resident.phase is Phase.DRAINING:  # 2",
        "elif resident.phase is not Phase.UNLOADING:  # 2",
    ),
    Mutant(
        "the_servers_word_only_raises",
        "a model that was loaded again with a shorter context holds its old room for ever",
        "core",
        "                self._state.resize(resident, event.footprint)\n",
        "                self._state.resize(resident, larger(resident.footprint, event.footprint))\n",
    ),
    Mutant(
        "the_servers_word_frees_room_for_nobody",
        "the size falls, and whoever waits for that room waits on",
        "core",
        "resize(resident, event.footprint)\n                self._settle(now_s, out)\n",
        "resize(resident, event.footprint)\n",
    ),
    Mutant(
        "somebody_elses_use_does_not_count",
        "the model that another program uses all day is the first to go",
        "core",
        "            if event.used:\n",
        "            if event.used and resident.leases:\n",
    ),
    Mutant(
        "what_was_found_is_unloaded_for_idleness",
        "another program's model is taken from it although there is room for all",
        "state",
        "known.idle_s is None or resident.why is Why.FOUND:",
        "known.idle_s is None:",
    ),
    Mutant(
        "what_was_found_is_its_own_victim",
        "another program loads a model, and we unload it in the same second, again and again",
        "state",
        "protected = not shrinking or resident.why is Why.FOUND",
        "protected = not shrinking",
    ),
    Mutant(
        "what_was_found_took_no_time_to_load",
        "likewise where the minimum residency is left to us: nobody knows its load time, and none is taken for 0 s",
        "state",
        "        if resident.why is Why.FOUND:\n            return resident.ready_s + PROTECTION_MAX_S\n",
        "",
    ),
    Mutant(
        "no_alarm_for_what_was_found",
        "its protection is over, more is committed than there is, and nothing happens",
        "core",
        "if waiting or (self._tight and resident.why is Why.FOUND):",
        "if waiting:",
    ),
    Mutant(
        "what_cannot_be_unloaded_is_a_victim",
        "the head waits for the stop of a model that no stop can reach",
        "state",
        "self.keeps_room = pinned or not evictable",
        "self.keeps_room = pinned",
    ),
    Mutant(
        "what_cannot_be_unloaded_is_no_obstacle",
        "a client waits for room that nobody can make",
        "state",
        "if self.known[r.target].keeps_room and not r.leaving)",
        "if self.known[r.target].pinned and not r.leaving)",
    ),
    Mutant(
        "an_admin_unloads_what_cannot_be",
        "its bytes are taken for free while the server goes on holding them",
        "core",
        "if resident is None or not self._state.known[target].evictable:",
        "if resident is None:",
    ),
    Mutant(
        "what_has_vanished_is_in_use",
        "the leases of a model that is not there any more count for its next load",
        "core",
        "        if resident is not None:\n            self._void_leases(resident)\n",
        "        if resident is not None:\n",
    ),
    Mutant(
        "what_has_vanished_while_it_drains_is_waited_for",
        "the head waits for the leases of a model that is not there any more",
        "core",
        "        if resident is not None:\n            self._void_leases(resident)\n",
        "        if resident is not None and not resident.leaving:\n            self._void_leases(resident)\n",
    ),
    Mutant(
        "what_has_vanished_is_stopped",
        "and the model that its other users have loaded again by then with it",
        "core",
        "            self._state.give_up_restoring(event.target)\n            self._state.gone(resident)\n",
        "            self._state.give_up_restoring(event.target)\n"
        "            self._start_unload(resident, Why.DIED, out)\n",
    ),
    Mutant(
        "what_has_vanished_leaves_room_for_nobody",
        "the room is there, and the head waits for the next event",
        "core",
        "            self._state.give_up_restoring(event.target)\n            self._state.gone(resident)\n"
        "            self._settle(now_s, out)\n",
        "            self._state.give_up_restoring(event.target)\n            self._state.gone(resident)\n",
    ),
    Mutant(
        "what_others_have_unloaded_is_restored",
        "somebody frees memory by hand, a load fails, and the gateway fills it again",
        "core",
        "            self._state.give_up_restoring(event.target)\n            self._state.gone(resident)\n",
        "            self._state.gone(resident)\n",
    ),
    Mutant(
        "a_vanishing_of_long_ago_is_believed",
        "the answer to a question of before its load ends a model that is up: two of them in memory",
        "core",
        "            case Vanished():\n                self._vanished(event, now_s, out)\n",
        "            case Vanished():\n                epoch = self.standing(event.target)[1]\n"
        "                self._vanished(Vanished(event.target, epoch), now_s, out)\n",
    ),
)
