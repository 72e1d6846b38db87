// SPDX-License-Identifier: BSD-3-Clause
// C++ as far as an overlay can have it: static objects, virtual functions, templates, new, no exceptions.
#include <cstdio>

extern "C" long app_counter;

namespace
{
struct Shape {
	virtual ~Shape() = default;
	virtual int area() const = 0;
};

struct Square final : Shape {
	explicit Square(int s) : side(s)
	{
	}
	int area() const override
	{
		return side * side;
	}
	int side;
};

template <typename T> T add(T a, T b)
{
	return a + b;
}

struct Global {
	Global()
	{
		value = 7;
	}
	~Global()
	{
		app_counter += 100;
	}
	int value;
} global;
} // namespace

inline int shared_inline()
{
	static int calls;
	return ++calls;
}

struct Late {
	Late() : n(5)
	{
	}
	~Late()
	{
		app_counter += 10000;
	}
	int n;
};

int main()
{
	static Late late;
	Shape *shape = new Square(6);
	int *numbers = new int[100];

	numbers[99] = add(shape->area(), global.value);
	std::printf("%d %d %d\n", numbers[99], late.n, shared_inline());
	delete shape;
	delete[] numbers;
	return 0;
}
