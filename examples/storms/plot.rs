//! The curves of all storms as a PNG: what is answered well, and what reaches the last service, over time.

use std::{convert::Infallible, fs::File, io::BufWriter, path::Path};

use embedded_graphics::{
    Drawable, Pixel,
    draw_target::DrawTarget,
    geometry::{OriginDimensions, Point, Size},
    mono_font::{MonoTextStyle, ascii::FONT_6X10, ascii::FONT_8X13_BOLD},
    pixelcolor::{Rgb888, RgbColor},
    primitives::{Line, Polyline, Primitive, PrimitiveStyle, Rectangle},
    text::{Alignment, Text, TextStyleBuilder},
};

use crate::{
    Result,
    record::Tally,
    storm::{PERIOD, Side, Told},
};

const INK: Rgb888 = Rgb888::new(0x22, 0x22, 0x22);
const GRID: Rgb888 = Rgb888::new(0xdd, 0xdd, 0xdd);
const TROUBLE: Rgb888 = Rgb888::new(0xfd, 0xf0, 0xd5);
const STOCK: Rgb888 = Rgb888::new(0xd6, 0x27, 0x28);
const PROTECTED: Rgb888 = Rgb888::new(0x1a, 0x7f, 0x37);

/// Of a chart, with the room for its labels.
const WIDTH: i32 = 560;
const HEIGHT: i32 = 220;
const LEFT: i32 = 60;
const RIGHT: i32 = 20;
const TOP: i32 = 36;
const BOTTOM: i32 = 30;
const HEADER: i32 = 34;
/// A point of a curve is a mean over so many looks, or single calls would show.
const SMOOTH: usize = 5;

/// A picture in memory.
struct Canvas {
    size: Size,
    pixels: Vec<u8>,
}

/// One chart: where it is, and how numbers become places.
struct Chart {
    origin: Point,
    seconds: f64,
    most: f64,
}

/// Draws a row for each storm into `path`.
///
/// # Errors
///
/// When the file cannot be written.
pub fn draw(told: &[Told], path: &Path) -> Result<()> {
    let height = HEADER + HEIGHT * told.len() as i32;
    let mut canvas = Canvas::new(Size::new(2 * WIDTH as u32, height as u32));
    let legend = "red: stock   green: protected   shaded: the trouble";
    canvas.text(legend, Point::new(LEFT, 22), Alignment::Left);
    for (row, told) in told.iter().enumerate() {
        let y = HEADER + HEIGHT * row as i32;
        let title = format!("{}: answered well, per second", told.storm.name);
        let good = |tally: Tally| tally.good;
        canvas.chart(
            told,
            &title,
            Point::new(0, y),
            good,
            f64::from(told.storm.load),
        );
        let title = format!("{}: attempts, per second", told.storm.name);
        canvas.chart(
            told,
            &title,
            Point::new(WIDTH, y),
            |tally| tally.attempts,
            0.0,
        );
    }
    canvas.write(path)
}

/// What was counted per second around each look, with its time.
fn rates(points: &[Tally], count: fn(Tally) -> u64) -> Vec<(f64, f64)> {
    let seconds = PERIOD.as_secs_f64();
    points
        .windows(SMOOTH + 1)
        .enumerate()
        .map(|(at, window)| {
            let counted = count(window[SMOOTH] - window[0]) as f64;
            let middle = (at as f64 + SMOOTH as f64 / 2.0) * seconds;
            (middle, counted / (SMOOTH as f64 * seconds))
        })
        .collect()
}

/// A round number of grid steps, at most five, that reaches `most`.
fn step(most: f64) -> f64 {
    let rough = (most / 5.0).max(1.0);
    let power = 10_f64.powf(rough.log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|factor| factor * power >= rough);
    factor.unwrap_or(10.0) * power
}

// ===== impl Canvas =====

impl Canvas {
    fn new(size: Size) -> Self {
        let bytes = size.width as usize * size.height as usize * 3;
        Self {
            size,
            pixels: vec![0xff; bytes],
        }
    }

    fn add(&mut self, drawable: &impl Drawable<Color = Rgb888>) {
        let Ok(_) = drawable.draw(self);
    }

    fn text(&mut self, text: &str, at: Point, alignment: Alignment) {
        let style = MonoTextStyle::new(&FONT_6X10, INK);
        let placed = TextStyleBuilder::new().alignment(alignment).build();
        self.add(&Text::with_text_style(text, at, style, placed));
    }

    fn chart(
        &mut self,
        told: &Told,
        title: &str,
        origin: Point,
        count: fn(Tally) -> u64,
        at_least: f64,
    ) {
        let curves = [Side::Stock, Side::Protected].map(|side| rates(told.points(side), count));
        let highest = curves.iter().flatten().map(|(_, rate)| *rate);
        let chart = Chart {
            origin,
            seconds: told.storm.length.as_secs_f64(),
            most: highest.fold(at_least, f64::max) * 1.1,
        };
        let heading = MonoTextStyle::new(&FONT_8X13_BOLD, INK);
        self.add(&Text::new(title, origin + Point::new(LEFT, 22), heading));
        self.shade(&chart, told);
        self.grid(&chart);
        for (curve, colour) in curves.iter().zip([STOCK, PROTECTED]) {
            let points: Vec<_> = curve.iter().map(|&(x, y)| chart.place(x, y)).collect();
            let style = PrimitiveStyle::with_stroke(colour, 2);
            self.add(&Polyline::new(&points).into_styled(style));
        }
    }

    fn shade(&mut self, chart: &Chart, told: &Told) {
        let trouble = &told.storm.trouble;
        let corners = (
            chart.place(trouble.start.as_secs_f64(), chart.most),
            chart.place(trouble.end.as_secs_f64(), 0.0),
        );
        let area = Rectangle::with_corners(corners.0, corners.1);
        self.add(&area.into_styled(PrimitiveStyle::with_fill(TROUBLE)));
    }

    fn grid(&mut self, chart: &Chart) {
        let line = PrimitiveStyle::with_stroke(GRID, 1);
        let step = step(chart.most);
        let mut value = 0.0;
        while value <= chart.most {
            let at = chart.place(0.0, value);
            let end = chart.place(chart.seconds, value);
            self.add(&Line::new(at, end).into_styled(line));
            self.text(
                &format!("{value}"),
                at + Point::new(-6, 3),
                Alignment::Right,
            );
            value += step;
        }
        for second in 0..=chart.seconds as u32 {
            let at = chart.place(f64::from(second), 0.0) + Point::new(0, 14);
            self.text(&format!("{second} s"), at, Alignment::Center);
        }
    }

    fn write(&self, path: &Path) -> Result<()> {
        let file = BufWriter::new(File::create(path)?);
        let mut encoder = png::Encoder::new(file, self.size.width, self.size.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.set_depth(png::BitDepth::Eight);
        let mut writer = encoder.write_header()?;
        writer.write_image_data(&self.pixels)?;
        Ok(writer.finish()?)
    }
}

impl OriginDimensions for Canvas {
    fn size(&self) -> Size {
        self.size
    }
}

impl DrawTarget for Canvas {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I>(&mut self, pixels: I) -> Result<(), Infallible>
    where
        I: IntoIterator<Item = Pixel<Rgb888>>,
    {
        for Pixel(Point { x, y }, colour) in pixels {
            let (Ok(x), Ok(y)) = (u32::try_from(x), u32::try_from(y)) else {
                continue;
            };
            if x < self.size.width && y < self.size.height {
                let at = (y * self.size.width + x) as usize * 3;
                self.pixels[at..at + 3].copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
            }
        }
        Ok(())
    }
}

// ===== impl Chart =====

impl Chart {
    fn place(&self, seconds: f64, value: f64) -> Point {
        let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
        let x = seconds / self.seconds * f64::from(width);
        let y = (1.0 - value / self.most.max(1.0)) * f64::from(height);
        self.origin + Point::new(LEFT + x.round() as i32, TOP + y.round() as i32)
    }
}
