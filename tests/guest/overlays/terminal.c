/* SPDX-License-Identifier: BSD-3-Clause */
/* Says how large its terminal is, and again each time that changes, until that is 0 by 0 or it is
 * ended. */
// uio: name = "terminal"
// uio: version = "1.0"
// uio: description = "say the terminal's size"
#include <uio/uio.h>

int main(void)
{
	unsigned int rows, columns, before[2] = {-1u, -1u};

	for (;;) {
		bool terminal = uio_terminal(&rows, &columns);
		if (rows != before[0] || columns != before[1])
			uio_printf("%s of %u by %u\n", terminal ? "terminal" : "none", rows,
				   columns);
		before[0] = rows;
		before[1] = columns;
		if (rows == 0 && columns == 0)
			return 0;
		uio_sleep_ns(1000000);
	}
}
