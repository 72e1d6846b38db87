# SPDX-License-Identifier: BSD-3-Clause
APP_CFLAGS += -D_GNU_SOURCE
