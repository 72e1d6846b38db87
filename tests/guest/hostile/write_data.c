/* SPDX-License-Identifier: BSD-3-Clause */
/* Writes to a variable of the application. */
// uio: name = "write_data"
// uio: version = "1"
extern long count;
int main(void)
{
	count = 5;
	return 0;
}
